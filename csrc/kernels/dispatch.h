// Which kernels this build has, which of them this CPU can run, and the choice among them.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace whisperq::kernels {

struct IsaInfo {
    const char* name;
    bool built;                // into this extension
    bool supported;            // by this CPU and its OS
    const KernelTable* table;  // nullptr where it is not built
};

// Every ISA that we have kernels for, on any CPU; of two that run here, the later is the faster.
std::vector<IsaInfo> isas();

// The fastest that is built and supported: scalar at the least.
const KernelTable& best_kernels();

// The kernels of one ISA.
//
// Throws Error with Status::unknown_isa, isa_not_built or isa_not_supported; each message lists the choices.
const KernelTable& kernels_named(const std::string& name);

// What the environment variable WHISPERQ_ISA names, asked anew at each call; the best if it is unset, empty or "auto".
//
// Throws as kernels_named does.
const KernelTable& chosen_kernels();

// kernels_named(), or the chosen ones for "auto" and "".
const KernelTable& kernels_for(const std::string& isa);

}  // namespace whisperq::kernels
