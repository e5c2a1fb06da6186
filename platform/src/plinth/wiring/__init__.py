"""The composition root: settings to ports. Nothing else constructs adapters."""

from plinth.wiring.platform import LoadedProduct as LoadedProduct
from plinth.wiring.platform import Platform as Platform
from plinth.wiring.platform import Products as Products
