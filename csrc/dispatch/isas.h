// THE table of instruction sets: the code that this build has of each, whether this CPU can run it, and the choice.
#pragma once

#include <string>
#include <vector>

#include "audio/mel_frames.h"
#include "decoding/row_math.h"
#include "kernels/kernels.h"

namespace whisperq::dispatch {

// Everything that is compiled for one instruction set. The members are references, so that an instruction set which
// lacks one of them does not compile.
struct Isa {
    const kernels::KernelTable& kernels;
    const audio::FrameKernel& mel_frames;
    const decoding::RowMath& row_math;

    const char* name() const noexcept { return kernels.isa; }
};

struct IsaInfo {
    const char* name;
    bool supported;  // by this CPU and its OS
    const Isa* isa;  // nullptr where it is not in this build

    bool is_built() const noexcept { return isa != nullptr; }
    bool is_usable() const noexcept { return is_built() && supported; }
};

// Every instruction set that we have code for, on any CPU, from the slowest to the fastest.
const std::vector<IsaInfo>& isas();

// Return the fastest instruction set that is built and supported: scalar at the least.
const Isa& best_isa();

// Return the instruction set of this name.
//
// Throws Error with Status::unknown_isa, isa_not_built or isa_not_supported; each message lists the choices.
const Isa& isa_named(const std::string& name);

// Return what the environment variable WHISPERQ_ISA names, asked anew at each call; the best if it is unset, empty or
// "auto".
//
// Throws as isa_named does.
const Isa& chosen_isa();

// Return isa_named(), or the chosen one for "auto" and "".
const Isa& isa_for(const std::string& name);

}  // namespace whisperq::dispatch
