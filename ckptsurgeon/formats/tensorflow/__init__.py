"""Code shared by TensorFlow's V1 and V2 checkpoints: tables, protobuf wire format, tensor messages."""
