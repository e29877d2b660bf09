"""What happens to a request. Knows neither gRPC nor Triton."""
