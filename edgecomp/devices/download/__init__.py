"""The download of a model: `model.edgecomp`, an entropy-coded container that decodes, once and on the device, into the
very file. Codes stay codes: what is decoded is the packed codes as they lie in the file, never weights.

docs/download.md has the format; targets/download the decoder that apps compile."""

from .container import NAME as NAME
from .container import of_file as of_file
from .container import pack as pack
from .container import unpack as unpack
from .tables import Tensor as Tensor
