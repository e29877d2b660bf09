"""Generated from the .proto files beside it by `make stubs`; do not edit."""
