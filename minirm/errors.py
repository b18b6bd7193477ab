"""The one kind of error that is the user's to mend."""


class InputError(ValueError):
    """What the user handed in breaks a rule. The message is one line that names the place, the value and the rule."""
