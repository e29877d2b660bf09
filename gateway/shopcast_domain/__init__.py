"""What training and serving must agree on: events, item texts, features and the manifest.

Imports numpy, pydantic and tokenizers only; neither torch nor grpc.
"""
