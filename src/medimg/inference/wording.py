"""What a measure of monitoring says, in plain words. Needs the standard library only."""

from __future__ import annotations

from collections.abc import Sequence

from medimg.inference.change import superiority

__all__ = ["of_distribution", "of_rate"]

_SAYS = {
    "brightness": ("mean brightness", "darker", "brighter"),
    "contrast": ("contrast", "of less contrast", "of more contrast"),
    "dark": ("share of near-black pixels", "near black in fewer places", "near black in more places"),
    "light": ("share of near-white pixels", "near white in fewer places", "near white in more places"),
    "fineness": ("sharpness of fine detail", "smoother", "of finer grain"),
    "stretch": (
        "balance of detail from top to bottom and from side to side",
        "more detailed from side to side",
        "more detailed from top to bottom",
    ),
    "left_right": ("difference in brightness between left and right", "darker on the left", "brighter on the left"),
    "top_bottom": ("difference in brightness between top and bottom", "darker at the top", "brighter at the top"),
    "centre": (
        "difference in brightness between the middle and the edges",
        "darker in the middle",
        "brighter in the middle",
    ),
    "colour": ("strength of colour", "less colourful", "more colourful"),
}
"""Measure of the pixels to its name in plain words, and how images look that have less of it or more."""

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
    above, more = superiority(now, then), mean > before
    says, *looks = _SAYS.get(name, ("model's confidence" if name == "confidence" else name,))
    if not alarm:
        found = f"The {says} is as on validation"
    elif abs(above - 0.5) < _SIDED or (above > 0.5) != more:  # neither more nor less
        found = f"The {says} varies from image to image otherwise than on validation"
    elif looks:
        return (
            f"The images are {looks[more]} than those of validation "
            f"({says}: {mean:.3f} on average, {before:.3f} on validation)."
        )
    else:
        found = f"The {says} is {('lower', 'higher')[more]} than on validation"
    return f"{found} ({mean:.3f} on average, {before:.3f} on validation)."


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
