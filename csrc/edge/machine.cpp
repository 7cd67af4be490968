#include "edge/machine.h"

namespace whisperq::edge {

void Machine::reserve(const MachineNeeds& needs) {
    for (AlignedBuffer& buffer : scratch_) reserve_bytes(buffer, needs.scratch_bytes);
    reserve_bytes(strips_, needs.strip_bytes);
    reserve_bytes(rows_, needs.row_bytes);
}

size_t Machine::n_bytes() const noexcept {
    size_t n = strips_.size() + rows_.size();
    for (const AlignedBuffer& buffer : scratch_) n += buffer.size();
    return n;
}

// The buffer that is too small goes first, so that the two are never there at once.
void reserve_bytes(AlignedBuffer& buffer, size_t n_bytes) {
    if (buffer.size() >= n_bytes) return;
    buffer = AlignedBuffer();
    buffer = AlignedBuffer(n_bytes);
}

float* reserve_floats(AlignedBuffer& buffer, int64_t n_floats) {
    reserve_bytes(buffer, static_cast<size_t>(n_floats) * sizeof(float));
    return buffer.floats();
}

}  // namespace whisperq::edge
