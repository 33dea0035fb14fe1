"""Makes baselines from what the parties trust: a root folder, an image, packages, a machine's own logs, another verifier's
policy. A baseline lists what may be loaded; what could not be listed is told and stays refused."""

from perunml.client.baselines.build import Built, Rules, Sources, assemble, build_baseline
from perunml.client.baselines.keylime import Imported, import_keylime

__all__ = ["Built", "Imported", "Rules", "Sources", "assemble", "build_baseline", "import_keylime"]
