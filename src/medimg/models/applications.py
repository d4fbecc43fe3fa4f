"""The networks of `keras.applications`: what is known of each without Keras.

Files and hashes are those of Keras 3.15's own sources; the tests ask Keras for the same ones. Sizes of arrays were
counted on networks without their top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["APPLICATIONS", "Application", "Scaling", "WeightsFile", "canonical"]

Scaling = Literal["tf", "torch", "caffe", "signed_byte", "efficientnet"]
"""What a network's weights expect of pixels: see `medimg.models.backbones.preprocess`."""

_ROOT = "tensorflow/keras-applications"
_NOTOP = "{stem}_weights_tf_dim_ordering_tf_kernels_notop.h5"


@dataclass(frozen=True)
class WeightsFile:
    """A file of ImageNet weights without the top, as Keras publishes it.

    Attributes:
        address: Path under the host's address.
        name: Name in Keras' cache.
        hash: Keras' own, hexadecimal: MD5, or SHA-256 where it has 64 digits; None where Keras has none.
    """

    address: str
    name: str
    hash: str | None


@dataclass(frozen=True)
class _Family:
    """What networks of one paper share.

    Attributes:
        folder: Where Keras publishes their weights.
        file: Name of such a file, with {stem}, {alpha} and {size} to be filled in.
        scaling: What their weights expect of pixels.
        sizes: Image sides for which {size} has a file of its own; any other takes the one of 224.
        min_size: Smallest image side, in pixels.
        has_preprocessing: Whether Keras puts preprocessing into them unless it is told not to.
    """

    folder: str
    file: str
    scaling: Scaling
    sizes: tuple[int, ...] = ()
    min_size: int = 32
    has_preprocessing: bool = False


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications`.

    Attributes:
        name: Of the function there.
        stem: What its weights file is called, in the family's pattern.
        hash: Of that file, as Keras has it.
        convolutions: Number of convolution weights. With the next it tells networks apart in a file that does not say
            what it holds.
        vectors: Number of biases and other weights with one axis.
    """

    name: str
    family: _Family
    stem: str
    hash: str | None
    convolutions: int
    vectors: int

    @property
    def scaling(self) -> Scaling:
        """What its weights expect of pixels."""
        return self.family.scaling

    @property
    def min_size(self) -> int:
        """Smallest image side, in pixels."""
        return self.family.min_size

    @property
    def has_preprocessing(self) -> bool:
        """Whether it takes `include_preprocessing`."""
        return self.family.has_preprocessing

    def file(self, *, image_size: int, alpha: float = 1.0) -> WeightsFile:
        """Returns the file that Keras takes for an image size and width."""
        size = image_size if image_size in self.family.sizes else 224
        name = self.family.file.format(stem=self.stem, alpha=alpha, size=size)
        # NASNet's files are called otherwise where they are published.
        published = name.replace("_", "-").replace("nasnet", "NASNet") if self.stem.startswith("nasnet") else name
        return WeightsFile(f"{self.family.folder}/{published}", name, self.hash)


_CONVNEXT = _Family(f"{_ROOT}/convnext", "{stem}_notop.h5", "torch", has_preprocessing=True)
_DENSENET = _Family(f"{_ROOT}/densenet", _NOTOP, "torch")
_EFFICIENTNET = _Family("keras-applications", "{stem}_notop.h5", "efficientnet")
_EFFICIENTNET_V2B = _Family(f"{_ROOT}/efficientnet_v2", "{stem}_notop.h5", "torch", has_preprocessing=True)
_EFFICIENTNET_V2 = _Family(f"{_ROOT}/efficientnet_v2", "{stem}_notop.h5", "signed_byte", has_preprocessing=True)
_INCEPTION_RESNET = _Family(f"{_ROOT}/inception_resnet_v2", _NOTOP, "tf", min_size=75)
_INCEPTION = _Family(f"{_ROOT}/inception_v3", _NOTOP, "tf", min_size=75)
_MOBILENET = _Family(
    f"{_ROOT}/mobilenet", "{stem}_1_0_{size}_tf_no_top.h5", "tf", sizes=(128, 160, 192, 224)
)  # fmt: skip
_MOBILENET_V2 = _Family(
    f"{_ROOT}/mobilenet_v2",
    "{stem}_weights_tf_dim_ordering_tf_kernels_{alpha}_{size}_no_top.h5",
    "tf",
    sizes=(96, 128, 160, 192, 224),
)
_MOBILENET_V3 = _Family(
    f"{_ROOT}/mobilenet_v3", "weights_{stem}_224_1.0_float_no_top_v2.h5", "tf", has_preprocessing=True
)
_NASNET = _Family(f"{_ROOT}/nasnet", "{stem}_no_top.h5", "tf")
_RESNET = _Family(f"{_ROOT}/resnet", _NOTOP, "caffe")
_RESNET_V2 = _Family(f"{_ROOT}/resnet", _NOTOP, "tf")
_VGG16 = _Family(f"{_ROOT}/vgg16", _NOTOP, "caffe")
_VGG19 = _Family(f"{_ROOT}/vgg19", _NOTOP, "caffe")
_XCEPTION = _Family(f"{_ROOT}/xception", _NOTOP, "tf", min_size=71)

# fmt: off
_ROWS: tuple[tuple[str, _Family, str, str | None, int, int], ...] = (
    ("ConvNeXtBase", _CONVNEXT, "convnext_base",
     "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45", 3_643_008, 168_448),
    ("ConvNeXtLarge", _CONVNEXT, "convnext_large",
     "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd", 7_528_896, 252_672),
    ("ConvNeXtSmall", _CONVNEXT, "convnext_small",
     "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab", 2_216_160, 126_336),
    ("ConvNeXtTiny", _CONVNEXT, "convnext_tiny",
     "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1", 1_877_472, 64_128),
    ("ConvNeXtXLarge", _CONVNEXT, "convnext_xlarge",
     "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05", 12_791_040, 336_896),
    ("DenseNet121", _DENSENET, "densenet121", "30ee3e1110167f948a6b9946edeeb738", 6_870_208, 167_296),
    ("DenseNet169", _DENSENET, "densenet169", "b8c4d4c20dd625c148057b9ff1c1176b", 12_326_080, 316_800),
    ("DenseNet201", _DENSENET, "densenet201", "c13680b51ded0fb44dff2d8f86ac8bb1", 17_863_872, 458_112),
    ("EfficientNetB0", _EFFICIENTNET, "efficientnetb0", "50bc09e76180e00e4465e1a485ddc09d", 3_956_192, 93_378),
    ("EfficientNetB1", _EFFICIENTNET, "efficientnetb1", "74c4e6b3e1f6a1eea24c589628592432", 6_436_976, 138_262),
    ("EfficientNetB2", _EFFICIENTNET, "efficientnetb2", "111f8e2ac8aa800a7a99e3239f7bfb39", 7_618_016, 150_552),
    ("EfficientNetB3", _EFFICIENTNET, "efficientnetb3", "af6d107764bb5b1abb91932881670226", 10_588_856, 194_678),
    ("EfficientNetB4", _EFFICIENTNET, "efficientnetb4", "ebc24e6d6c33eaebbd558eafbeedf1ba", 17_394_376, 279_446),
    ("EfficientNetB5", _EFFICIENTNET, "efficientnetb5", "38879255a25d3c92d5e44e04ae6cec6f", 28_127_728, 385_798),
    ("EfficientNetB6", _EFFICIENTNET, "efficientnetb6", "9ecce42647a20130c1f39a5d4cb75743", 40_458_672, 501_470),
    ("EfficientNetB7", _EFFICIENTNET, "efficientnetb7", "cbcfe4450ddf6f3ad90b1b398090fe4a", 63_403_040, 694_646),
    ("EfficientNetV2B0", _EFFICIENTNET_V2B, "efficientnetv2-b0",
     "893217f2bb855e2983157299931e43ff", 5_784_576, 134_736),
    ("EfficientNetV2B1", _EFFICIENTNET_V2B, "efficientnetv2-b1",
     "0e80663031ca32d657f9caa404b6ec37", 6_773_152, 157_972),
    ("EfficientNetV2B2", _EFFICIENTNET_V2B, "efficientnetv2-b2",
     "1dfe2e7a5d45b6632553a8961ea609eb", 8_586_384, 182_990),
    ("EfficientNetV2B3", _EFFICIENTNET_V2B, "efficientnetv2-b3",
     "f6abf7b5849ac99a89b50dd3fd532856", 12_687_448, 243_174),
    ("EfficientNetV2L", _EFFICIENTNET_V2, "efficientnetv2-l",
     "b0b66b5c863aef5b46e8608fe1711615", 116_602_144, 1_144_704),
    ("EfficientNetV2M", _EFFICIENTNET_V2, "efficientnetv2-m", "1b8dc055df72dde80d614482840fe342", 52_498_504, 651_884),
    ("EfficientNetV2S", _EFFICIENTNET_V2, "efficientnetv2-s", "af0682fb74e8c54910f2d4393339c070", 19_988_424, 342_936),
    ("InceptionResNetV2", _INCEPTION_RESNET, "inception_resnet_v2",
     "d19885ff4a710c122648d3b5c3b684e4", 54_200_160, 136_576),
    ("InceptionV3", _INCEPTION, "inception_v3", "bcbd6486424b2319ff4ef7d526e38f63", 21_751_136, 51_648),
    ("MobileNet", _MOBILENET, "mobilenet", None, 3_185_088, 43_776),
    ("MobileNetV2", _MOBILENET_V2, "mobilenet_v2", None, 2_189_760, 68_224),
    ("MobileNetV3Large", _MOBILENET_V3, "mobilenet_v3_large", "07fb09a5933dd0c8eaafa16978110389", 2_942_472, 53_880),
    ("MobileNetV3Small", _MOBILENET_V3, "mobilenet_v3_small", "d3e8ec802a04aa4fc771ee12a9a9b836", 912_008, 27_112),
    ("NASNetLarge", _NASNET, "nasnet_large", "d81d89dc07e6e56530c4e77faddd61b5", 84_523_482, 393_336),
    ("NASNetMobile", _NASNET, "nasnet_mobile", "1ed92395b5b598bdda52abe5c0dbfd63", 4_196_240, 73_476),
    ("ResNet101", _RESNET, "resnet101", "88cf7a10940856eca736dc7b7e228a21", 42_394_816, 263_360),
    ("ResNet101V2", _RESNET_V2, "resnet101v2", "c0ed64b8031c3730f411d2eb4eea35b5", 42_394_816, 231_744),
    ("ResNet152", _RESNET, "resnet152", "ee4c566cf9a93f14d82f913c2dc6dd0c", 57_992_384, 378_560),
    ("ResNet152V2", _RESNET_V2, "resnet152v2", "ed17cf2e0169df9d443503ef94b23b33", 57_992_384, 339_264),
    ("ResNet50", _RESNET, "resnet50", "4d473c1dd8becc155b73f8504c6f6626", 23_454_912, 132_800),
    ("ResNet50V2", _RESNET_V2, "resnet50v2", "fac2f116257151a9d068a22e544a4917", 23_454_912, 109_888),
    ("VGG16", _VGG16, "vgg16", "6d6bbae143d832006294945121d1f1fc", 14_710_464, 4_224),
    ("VGG19", _VGG19, "vgg19", "253f8cb515780f3b799900260a226db6", 20_018_880, 5_504),
    ("Xception", _XCEPTION, "xception", "b0042744bf5b25fce3cb969f33bebb97", 20_752_424, 109_056),
)
# fmt: on

APPLICATIONS: Mapping[str, Application] = {row[0]: Application(*row) for row in _ROWS}
"""Every network of `keras.applications`, by its name there."""


def canonical(name: str) -> str:
    """Returns a network's name without what is written in several ways: `EfficientNetB3` and `efficientnet_b3`."""
    return name.casefold().replace("_", "").replace("-", "")
