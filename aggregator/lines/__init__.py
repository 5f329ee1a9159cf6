"""The lines of a task (`wire_contract/lines.py`): beginning the next one, closing an old one, serving all of them."""
