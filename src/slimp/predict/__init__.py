"""New images through a saved probe: probabilities, sets, nearest cases, and when to refuse."""

from slimp.predict.folder import save_probe
from slimp.predict.inputs import find_images
from slimp.predict.output import STATEMENT, to_dict, to_frame
from slimp.predict.predictor import Case, Prediction, Predictor
from slimp.predict.reference import load_reference, save_reference

__all__ = [
    "STATEMENT",
    "Case",
    "Prediction",
    "Predictor",
    "find_images",
    "load_reference",
    "save_probe",
    "save_reference",
    "to_dict",
    "to_frame",
]
