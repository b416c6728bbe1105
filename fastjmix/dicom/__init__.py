"""Bytes and meaning of the DICOM wire. Sans-I/O: no socket, no file, no clock in here."""
