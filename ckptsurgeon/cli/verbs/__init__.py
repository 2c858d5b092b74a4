"""The verbs: one short module each, with HELP, add_arguments(parser) and run(args)."""
