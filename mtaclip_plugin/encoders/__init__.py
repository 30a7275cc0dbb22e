"""Any encoder of smp, timm or open_clip as four maps at strides 4, 8, 16 and 32."""

from mtaclip_plugin.encoders.build import build_encoder
from mtaclip_plugin.encoders.dpt import encode
from mtaclip_plugin.encoders.image_statistics import Preprocessing, preprocessing
from mtaclip_plugin.encoders.maps import STRIDES, EncoderMaps, find_maps
from mtaclip_plugin.encoders.names import check_encoder_name, timm_name
from mtaclip_plugin.encoders.pyramid import GROUPS, StridePyramid

__all__ = [
    "GROUPS",
    "STRIDES",
    "EncoderMaps",
    "Preprocessing",
    "StridePyramid",
    "build_encoder",
    "check_encoder_name",
    "encode",
    "find_maps",
    "preprocessing",
    "timm_name",
]
