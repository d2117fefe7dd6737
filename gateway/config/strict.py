"""`Strict`: the base of every configuration model, and the number types they share.

Refuses unknown keys (naming the nearest known one) and lets a model add checks that span several keys, all
reported together with the mistakes of the single fields. Knows no files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from gateway.config.mistakes import KeyPath

_Model = TypeVar("_Model")
MISTAKE = "mistake"  # the type of the errors that our own checks raise


def mistake(message: str) -> PydanticCustomError:
    return PydanticCustomError(MISTAKE, "{message}", {"message": message})


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`did you mean 'x'?`, or all that is known when nothing is near."""
    words = list(dict.fromkeys(known))
    near = get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(words) or 'none'}"


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise mistake("should be a number; yes, no, on and off are true and false in YAML")
    return value


_NoBool = BeforeValidator(_no_bool)
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), _NoBool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), _NoBool]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), _NoBool]
UpToAYear = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False), _NoBool]  # seconds
PositiveShare = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False), _NoBool]
PositiveInt = Annotated[int, Field(gt=0), _NoBool]
NonNegativeInt = Annotated[int, Field(ge=0), _NoBool]
Workers = Annotated[int, Field(ge=1, le=64), _NoBool]
Tries = Annotated[int, Field(ge=0, le=10), _NoBool]
Port = Annotated[int, Field(ge=1, le=65535), _NoBool]
AnyPort = Annotated[int, Field(ge=0, le=65535), _NoBool]  # 0 = whichever is free


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @classmethod
    def cross_mistakes(cls, data: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
        """Checks over several keys of the raw data, any of which may be absent or wrong in itself."""
        return []

    @model_validator(mode="wrap")
    @classmethod
    def _all_mistakes(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        unknown = [key for key in data if key not in cls.model_fields]
        found: list[tuple[KeyPath, str]] = [
            ((key,), f"unknown key; {did_you_mean(key, cls.model_fields)}") for key in unknown
        ]
        found += cls.cross_mistakes(data)
        known = {key: value for key, value in data.items() if key in cls.model_fields}
        return _with_mistakes(cls.__name__, handler, known, found)


def _with_mistakes(
    title: str, handler: ModelWrapValidatorHandler[_Model], data: Any, found: list[tuple[KeyPath, str]]
) -> _Model:
    if not found:
        return handler(data)
    errors = [InitErrorDetails(type=mistake(message), loc=path, input=None) for path, message in found]
    try:
        handler(data)
    except ValidationError as error:
        errors += [
            InitErrorDetails(
                type=mistake(detail["msg"]) if detail["type"] == MISTAKE else detail["type"],
                loc=detail["loc"],
                input=detail["input"],
                ctx=detail.get("ctx", {}),
            )
            for detail in error.errors(include_url=False)
        ]
    raise ValidationError.from_exception_data(title, errors, hide_input=True)
