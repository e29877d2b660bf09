"""gRPC in, gRPC out: the only package that imports grpc and the protos."""
