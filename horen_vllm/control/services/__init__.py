"""Thin gRPC servicers, one file for each service."""
