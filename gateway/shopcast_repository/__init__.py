"""A Triton model repository: what is published in it, what serves, and whether it is whole.

Knows neither torch nor the gateway, so that a version can be looked at wherever it lies.
"""
