"""The control plane: gRPC services over the registry, and the client that speaks to them."""
