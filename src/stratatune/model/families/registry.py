"""The table of families. A new family is one file next to this and one line here; a row names its family."""

from __future__ import annotations

from stratatune.errors import ModelError, did_you_mean
from stratatune.model.body import Body
from stratatune.model.families.decoder import Decoder
from stratatune.model.families.encoder import Encoder
from stratatune.model.families.encoder_decoder import EncoderDecoder
from stratatune.model.families.family import Family

FAMILIES: dict[str, type[Family]] = {"encoder": Encoder, "decoder": Decoder, "encoder-decoder": EncoderDecoder}


def family_of(body: Body) -> Family:
    """The family that the row of a live model names.

    Raises:
        ModelError: no family has this name.
    """
    name = body.row.walked_by
    if name not in FAMILIES:
        raise ModelError(f"walked_by: {body.row.name} names the family {name!r}", did_you_mean(name, FAMILIES))
    return FAMILIES[name](body)
