"""How calls are retried: the gRPC service config every client of shopcast.v1 should use."""

import json

SERVICE_CONFIG: str = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "shopcast.v1.PredictionService"},
                    {"service": "shopcast.v1.EventService"},
                    {"service": "shopcast.v1.IdentityService"},
                    {"service": "shopcast.v1.PrivacyService"},
                ],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        # While most calls fail, retries stop, so that they do not hold a server down.
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
)
"""JSON for the channel option `grpc.service_config`. Only UNAVAILABLE is retried: every call of
shopcast.v1 may be sent again, and a server that is full or late is not helped by more calls."""
