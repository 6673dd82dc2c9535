"""Generated protobuf and gRPC code: never edited; made by `python -m tools.protos`."""
