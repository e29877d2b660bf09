"""The typed async client of shopcast.v1: what backend services import."""
