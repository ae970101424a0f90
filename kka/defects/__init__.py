"""Local defects of real objects: the language that describes them (`language`), with a vocabulary that a user edits."""
