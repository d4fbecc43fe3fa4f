"""What a measure of monitoring says, in plain words. Needs the standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from medimg.inference.change import superiority

__all__ = ["of_distribution", "of_rate"]

_LOOKS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "dark": ("near black in fewer places", "near black in more places"),
    "light": ("near white in fewer places", "near white in more places"),
    "fineness": ("smoother", "of finer grain"),
    "stretch": ("more detailed from side to side", "more detailed from top to bottom"),
    "left_right": ("darker on the left", "brighter on the left"),
    "top_bottom": ("darker at the top", "brighter at the top"),
    "centre": ("darker in the middle", "brighter in the middle"),
    "colour": ("less colourful", "more colourful"),
}

_SIDED = 0.1  # of the probability that an image now has more than one then, from a half


def of_distribution(
    name: str, mean: float, before: float, now: Sequence[int], then: Sequence[int], *, alarm: bool
) -> str:
    """Returns how the distribution of a number differs, or that it does not.

    Args:
        name: Of the measure.
        mean: Of the numbers now.
        before: Their mean on validation.
        now: Images in each bin.
        then: Those of validation.
        alarm: Whether they differ by more than chance.
    """
    what, than = ("images are", "those of validation") if name in _LOOKS else (f"{name} is", "on validation")
    above, more = superiority(now, then), mean > before
    if not alarm:
        how = f"{'like' if name in _LOOKS else 'as'} {than}"
    elif abs(above - 0.5) < _SIDED or (above > 0.5) != more:  # neither more nor less
        how = f"spread otherwise than {than}"
    else:
        how = f"{_LOOKS[name][more] if name in _LOOKS else ('lower', 'higher')[more]} than {than}"
    return f"The {what} {how} ({name}: {mean:.3f} on average, {before:.3f} on validation)."


def of_rate(name: str, share: float, before: float, *, alarm: bool) -> str:
    """Returns how often something is true now and was on validation.

    Args:
        name: Of the measure.
        share: Of the images now.
        before: Of those of validation.
        alarm: Whether they differ by more than chance.
    """
    told = f"Called {name.removeprefix('positives of ')}: {share:.1%} of the images, {before:.1%} of validation's."
    if alarm:
        told += " Another mix of patients does that, and so do images that the model cannot judge."
    return told
