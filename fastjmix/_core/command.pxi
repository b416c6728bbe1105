# Command sets: implicit VR little endian, group 0000 only (PS3.7 §6.3.1, elements in Annex E).

cdef class Command:
    """The elements of a command set that an acceptor of C-STORE and C-ECHO looks at.

    Absent numbers are -1, absent UIDs b"". UIDs stand without padding; they are a peer's bytes.
    """

    cdef readonly int field                 # (0000,0100) Command Field
    cdef readonly int message_id            # (0000,0110) Message ID
    cdef readonly int data_set_type         # (0000,0800) Command Data Set Type; 0101H = none
    cdef readonly bytes sop_class_uid       # (0000,0002), or (0000,0003) Requested SOP Class UID
    cdef readonly bytes sop_instance_uid    # (0000,1000), or (0000,1001) Requested SOP Instance UID


cdef bytes _command_uid(const uint8_t* text, uint32_t length):
    """A UID up to its first NUL, without the blanks around it: it has none (PS3.5 §9.1)."""
    cdef uint32_t first = 0, end = 0
    while end < length and text[end] != 0:
        end += 1
    while end and text[end - 1] == 32:
        end -= 1
    while first < end and text[first] == 32:
        first += 1
    return PyBytes_FromStringAndSize(<const char*>text + first, end - first)


def parse_command(const uint8_t[::1] data):
    """Reads a command set. Raises ValueError when it has no Command Field.

    The first counts where an element comes twice, or a number has several values. Elements that are
    not looked at are passed over, whatever they are; what cannot be followed ends the command set
    (PS3.7 §6.3.1). DCMTK and Orthanc do so, too.
    """
    cdef Command command = Command.__new__(Command)
    cdef Py_ssize_t n = data.shape[0], at = 0
    cdef const uint8_t* p = &data[0] if n else NULL
    cdef uint32_t length
    cdef uint16_t element
    cdef bytes requested_class = b"", requested_instance = b""
    command.field = command.message_id = command.data_set_type = -1
    command.sop_class_uid = command.sop_instance_uid = b""
    while n - at >= 8:
        element = fj_le16(p + at + 2)
        length = fj_le32(p + at + 4)
        if length > n - at - 8:
            break
        at += 8
        if fj_le16(p + at - 8) != 0:
            pass
        elif element == 0x0002:
            command.sop_class_uid = command.sop_class_uid or _command_uid(p + at, length)
        elif element == 0x1000:
            command.sop_instance_uid = command.sop_instance_uid or _command_uid(p + at, length)
        elif element == 0x0003:
            requested_class = requested_class or _command_uid(p + at, length)
        elif element == 0x1001:
            requested_instance = requested_instance or _command_uid(p + at, length)
        elif length < 2:
            pass
        elif element == 0x0100 and command.field < 0:
            command.field = fj_le16(p + at)
        elif element == 0x0110 and command.message_id < 0:
            command.message_id = fj_le16(p + at)
        elif element == 0x0800 and command.data_set_type < 0:
            command.data_set_type = fj_le16(p + at)
        at += length
    if command.field < 0:
        raise ValueError("the command set has no Command Field (0000,0100)")
    command.sop_class_uid = command.sop_class_uid or requested_class
    command.sop_instance_uid = command.sop_instance_uid or requested_instance
    return command
