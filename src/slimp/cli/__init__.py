"""One module per verb: `Arguments`, from which its flags are derived, and `run`.

A verb parses, calls a function that a notebook could call just as well, and prints. Each module
is imported when its verb is called, and not before.
"""
