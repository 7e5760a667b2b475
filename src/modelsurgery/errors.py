"""Every error that modelsurgery raises on purpose, and the exit code each one gives `surgery`.

::

    SurgeryError                1  failed
    ├── JournalError, CheckpointError, StorageError, FetchError, EvaluationError
    ├── InputError              2  what was typed or handed in cannot be used
    │   └── RecipeError, TextsError, ModelNotFoundError, UnsupportedModelError, ArtifactError,
    │       OutputExistsError
    ├── DamageBudgetError       3  no edit keeps the damage inside the budget
    ├── VerificationError       4  coverage or verification failed
    │   └── EditMismatchError, NothingChangedError
    └── NoEffectError           5  the behavior did not change as it was asked to
        └── NoSignalError

Messages are one line: what is wrong with which value, what was expected, what to do.
"""


class SurgeryError(Exception):
    """Base class of all errors that modelsurgery raises on purpose.

    Messages are one line: what is wrong, what was expected, what to do. The subclasses are in
    `modelsurgery.errors`; `exit_code` is the exit code that `surgery` gives.

    Example:
        >>> try:
        ...     load_edit("nosuch.safetensors")
        ... except SurgeryError as error:
        ...     print(type(error).__name__, error.exit_code)
        ArtifactError 2
    """

    exit_code = 1


class InputError(SurgeryError):
    """Something typed or handed in cannot be used."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe, an option or an argument is wrong."""


class TextsError(InputError):
    """A file of texts or prompts cannot be used."""


class ModelNotFoundError(InputError):
    """There is no model at the given directory or under the given id."""


class UnsupportedModelError(InputError):
    """The model is not one that this package knows how to edit."""


class ArtifactError(InputError):
    """A probe or edit file cannot be read."""


class OutputExistsError(InputError):
    """Writing would overwrite something that is already there."""


class CheckpointError(SurgeryError):
    """Weights on disk are damaged, hostile or not finite."""


class JournalError(SurgeryError):
    """A journal cannot be read, or does not fit the model that it lies in."""


class StorageError(SurgeryError):
    """The disk is full, read-only or failing."""


class FetchError(SurgeryError):
    """A model could not be fetched."""


class EvaluationError(SurgeryError):
    """A measurement could not be made."""


class DamageBudgetError(SurgeryError):
    """No edit keeps the damage inside the budget."""

    exit_code = 3


class NoEffectError(SurgeryError):
    """The behavior did not change as it was asked to, or no change could be told."""

    exit_code = 5


class NoSignalError(NoEffectError):
    """The texts do not say what to change: no edit was made."""


class VerificationError(SurgeryError):
    """Coverage or verification failed."""

    exit_code = 4


class EditMismatchError(VerificationError):
    """The edit was made for other weights."""


class NothingChangedError(VerificationError):
    """The edit would change no byte."""
