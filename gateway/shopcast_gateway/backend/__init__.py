"""What scores tensors: Triton, reached only through KServe v2 gRPC."""
