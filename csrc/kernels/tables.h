// The tables that this build contains: one symbol per ISA, each from a source of its own (cmake/Kernels.cmake). Only
// csrc/dispatch chooses among them; everything else takes a `const KernelTable&`.
#pragma once

#include "kernels/kernels.h"

namespace whisperq::kernels {

extern const KernelTable kScalarTable;

#ifdef WHISPERQ_HAVE_AVX2
extern const KernelTable kAvx2Table;
#endif
#ifdef WHISPERQ_HAVE_AVX512VNNI
extern const KernelTable kAvx512VnniTable;
#endif
#ifdef WHISPERQ_HAVE_AVX512BF16
extern const KernelTable kAvx512Bf16Table;
#endif
#ifdef WHISPERQ_HAVE_NEON
extern const KernelTable kNeonTable;
#endif
#ifdef WHISPERQ_HAVE_NEON_DOTPROD
extern const KernelTable kNeonDotprodTable;
#endif
#ifdef WHISPERQ_HAVE_NEON_I8MM
extern const KernelTable kNeonI8mmTable;
#endif

}  // namespace whisperq::kernels
