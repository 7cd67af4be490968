// How fast the kernels of an ISA are on one thread, beside how fast the core can be at their instructions.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace check {

struct Timing {
    std::string isa, kernel, shape;
    std::string unit;  // GOP/s (a multiplication and an addition are two), or Gvalue/s
    double rate;       // best of several repeats
    double peak;       // of the instructions relied on, in the same unit, measured around them; 0: does not apply
};

std::vector<Timing> bench(const whisperq::kernels::KernelTable& table);

void print_timing(const Timing& timing);

}  // namespace check
