"""What TensorFlow's V1 and V2 checkpoints share: tables, protobuf wire format, tensor messages."""
