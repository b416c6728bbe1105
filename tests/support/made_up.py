"""Studies of patients that do not exist, as Part 10 files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pydicom
import pydicom.config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


def write_study(
    directory: Path,
    patient: str,
    count: int = 2,
    *,
    rows: int = 64,
    elements: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Writes a study of `count` slices. `elements` are by keyword, as "AccessionNumber": "A1".

    Returns its Study Instance UID.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with pydicom.config.disable_value_validation():  # some are hostile
        return _write_study(directory, patient, count, rows, elements)


def _write_study(
    directory: Path, patient: str, count: int, rows: int, elements: Mapping[str, str]
) -> str:
    study, series = str(generate_uid()), str(generate_uid())
    for number in range(1, count + 1):
        slice_of = _slice(study, series, number, rows)
        slice_of.PatientName = patient
        for keyword, value in elements.items():
            setattr(slice_of, keyword, value)
        path = directory / f"{study[-12:]}-{number:04d}.dcm"
        pydicom.dcmwrite(path, slice_of, enforce_file_format=True)
    return study


def _slice(study: str, series: str, number: int, rows: int) -> Dataset:
    """Returns a slice of random pixels: nothing compresses them."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = CTImageStorage
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = study, series
    made.Modality, made.StudyDate, made.StudyID = "CT", "20260302", "1"
    made.SeriesNumber, made.InstanceNumber = 1, number
    made.Rows, made.Columns = rows, rows
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.PixelData = os.urandom(rows * rows * 2)
    return made
