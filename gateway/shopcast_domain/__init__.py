"""What training and serving must agree on: events, item texts, features and the manifest.

Imports numpy and pydantic only; neither torch nor grpc.
"""
