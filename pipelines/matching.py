"""Generated pictures get the spectrum of real ones before anything else sees them."""

from kka.errors import KkaError
from kka.images import Images, read_images, write_images
from kka.spectrum import apply_gains, spectral_gains
from kka.synthesizers import Retriever, Synthesizer
from pipelines.stage import Run


def refuse_photographs(run: Run, synthesizer: Synthesizer) -> None:
    """Raises KkaError where real photographs would be changed: they have the right spectrum, and are told apart by
    their bytes."""
    if isinstance(synthesizer, Retriever):
        name = run.config.synthesize.synthesizer
        raise KkaError(
            f"synthesize.match_spectrum: '{name}' hands out photographs, which have nothing to match. Set it to false."
        )


def match_spectrum(run: Run, normals: Images) -> None:
    """Rewrites this round's pictures and controls with the spectrum of `normals`, by gains that the training half of
    the controls shows: the other half measures what was reached."""
    folder = run.path("data", run.round)
    made = {name: read_images(folder / name) for name in ("anomalies", "controls")}
    gains = spectral_gains(made["controls"][: len(made["controls"]) // 2], normals)
    for name, images in made.items():
        write_images(folder / name, apply_gains(images, gains))
