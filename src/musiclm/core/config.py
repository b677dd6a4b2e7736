"""The base of every configuration: a small frozen value that refuses nonsense."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from musiclm.core.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Config(BaseModel):
    """A frozen configuration; unknown fields are errors.

    Subclasses live beside the class they configure and document each field below it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def to_json(self) -> str:
        """The whole configuration as indented JSON."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls: type[ConfigT], text: str) -> ConfigT:
        """Reads what `to_json` wrote.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ConfigError(
                f"{cls.__name__}: {where}: {first['msg']} ({error.error_count()} problems in all)."
            ) from error
