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


def parse_command(const uint8_t[::1] data):
    """Reads a command set. Raises ValueError when it is not one; unknown elements are passed over."""
    cdef Command command = Command.__new__(Command)
    cdef Py_ssize_t n = data.shape[0], at = 0
    cdef const uint8_t* p = &data[0] if n else NULL
    cdef uint32_t length, trimmed
    cdef uint16_t element
    command.field = command.message_id = command.data_set_type = -1
    command.sop_class_uid = command.sop_instance_uid = b""
    while at < n:
        if n - at < 8:
            raise ValueError("the command set ends inside an element")
        if fj_le16(p + at) != 0:
            raise ValueError("the command set holds an element outside group 0000")
        element = fj_le16(p + at + 2)
        length = fj_le32(p + at + 4)
        at += 8
        if length > n - at:
            raise ValueError(f"element (0000,{element:04X}) is longer than the command set")
        if element in (0x0002, 0x0003, 0x1000, 0x1001):
            trimmed = length
            while trimmed and (p[at + trimmed - 1] == 0 or p[at + trimmed - 1] == 32):
                trimmed -= 1
            uid = PyBytes_FromStringAndSize(<const char*>p + at, trimmed)
            if element < 0x1000:
                command.sop_class_uid = uid
            else:
                command.sop_instance_uid = uid
        elif element in (0x0100, 0x0110, 0x0800):
            if length != 2:
                raise ValueError(f"element (0000,{element:04X}) has {length} bytes, not 2")
            if element == 0x0100:
                command.field = fj_le16(p + at)
            elif element == 0x0110:
                command.message_id = fj_le16(p + at)
            else:
                command.data_set_type = fj_le16(p + at)
        at += length
    if command.field < 0:
        raise ValueError("the command set has no Command Field (0000,0100)")
    return command
