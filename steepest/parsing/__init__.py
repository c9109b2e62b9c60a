"""From words and files to options: what YAML and a command line say, the parser, and its messages."""
