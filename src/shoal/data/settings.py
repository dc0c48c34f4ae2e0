"""What a user may say about data, whatever its form."""

from __future__ import annotations

from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from shoal.errors import ConfigError

__all__ = ["DataSettings"]

_FOR_IMAGES = ("size", "crop", "mean", "std", "channels")
_FOR_TEXT = ("seq_len",)
_COUNTS = ("batch_size", "num_samples", "seq_len", "size")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How data is cut into batches. None means the default of the data's kind.

    A setting that means nothing for the data at hand is refused, never ignored.

    Attributes:
        batch_size: Samples in a batch; 64 for images, 4 for text where it is not given.
        num_samples: How many samples are used; all where it is not given. Images are a seeded random
            choice, windows of text lie evenly spaced over the whole of it.
        seq_len: Tokens in a window of text; 512 where it is not given.
        seed: Decides which images are used and in which order.
        size: Side in pixels that images from files are scaled and cropped to; their own where it is
            not given.
        crop: Share of the scaled image's shorter side that the centre crop keeps, in (0, 1]; many
            ImageNet networks are tested with 0.875.
        mean: Subtracted from every channel of pixels in [0, 1]; one number a channel.
        std: What the channels are divided by after that.
        channels: 3 for colour, 1 for grey, for images from files; 3 where it is not given.
    """

    batch_size: int | None = None
    num_samples: int | None = None
    seq_len: int | None = None
    seed: int = 0
    size: int | None = None
    crop: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None

    def __post_init__(self) -> None:
        faults = [*self._bad_counts(), *self._bad_pixels()]
        if faults:
            raise ConfigError(f"asked for data with {'; '.join(faults)}.")

    def _bad_counts(self) -> list[str]:
        given = {name: getattr(self, name) for name in _COUNTS}
        return [
            f"{name}={value!r}, which must be a whole number of at least 1"
            for name, value in given.items()
            if value is not None and (not isinstance(value, int) or value < 1)
        ]

    def _bad_pixels(self) -> list[str]:
        faults = []
        if self.crop is not None and (self.size is None or not 0 < self.crop <= 1):
            faults.append(f"crop={self.crop}, which lies above 0, is at most 1, and goes with a size")
        if self.channels not in (None, 1, 3):
            faults.append(f"channels={self.channels}, which is 1 (grey) or 3 (colour)")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            faults.append(
                f"mean={self.mean} and std={self.std}, which go together, one number a channel each"
            )
        if self.std is not None and min(self.std, default=1) <= 0:
            faults.append(f"std={self.std}, whose numbers must lie above 0")
        return faults

    @classmethod
    def of(cls, given: dict[str, Any]) -> DataSettings:
        """Return the settings of these names.

        Raises:
            ConfigError: If there is no such setting, with the nearest name, or a value is impossible.
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                near = get_close_matches(name, names, n=1, cutoff=0.0)[0]
                raise ConfigError(
                    f"asked for data with {name!r}: the settings are {', '.join(names)}; "
                    f"the nearest is {near!r}."
                )
        return cls(**given)

    def refuse(self, form: str, *names: str) -> None:
        """Refuse settings that mean nothing for a form of data.

        Raises:
            ConfigError: If any of them was given.
        """
        given = [f"{name}={getattr(self, name)!r}" for name in names if getattr(self, name) is not None]
        if given:
            raise ConfigError(
                f"asked for {', '.join(given)} with {form}: that means nothing there. Leave it out."
            )

    def refuse_image_settings(self, form: str) -> None:
        """Refuse what is only for images; raises ConfigError."""
        self.refuse(form, *_FOR_IMAGES)

    def refuse_text_settings(self, form: str) -> None:
        """Refuse what is only for text; raises ConfigError."""
        self.refuse(form, *_FOR_TEXT)
