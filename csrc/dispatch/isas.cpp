#include "dispatch/isas.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "core/cpu_features.h"
#include "core/status.h"
#include "kernels/tables.h"

namespace whisperq::dispatch {
namespace {

constexpr const char* kVariable = "WHISPERQ_ISA";

// A row of the table, slowest instruction set first. `features` are those (core/cpu_features) that its flags in
// cmake/Kernels.cmake let the compiler use. No feature follows from another: one CPU has AVX2 but no FMA, and the
// hypervisor of another hides F16C.
struct Row {
    const char* name;
    const char* family;  // of CPUs; nullptr: all
    const Isa* isa;
    std::initializer_list<const char*> features;
};

constexpr Isa kScalar{kernels::kScalarTable, audio::kFramesBaseline, decoding::kRowMathBaseline};

#ifdef WHISPERQ_HAVE_AVX2
constexpr Isa kAvx2Isa{kernels::kAvx2Table, audio::kFramesAvx2, decoding::kRowMathAvx2};
constexpr const Isa* kAvx2 = &kAvx2Isa;
#else
constexpr const Isa* kAvx2 = nullptr;
#endif
#ifdef WHISPERQ_HAVE_AVX512VNNI
constexpr Isa kAvx512VnniIsa{kernels::kAvx512VnniTable, audio::kFramesAvx512, decoding::kRowMathAvx512};
constexpr const Isa* kAvx512Vnni = &kAvx512VnniIsa;
#else
constexpr const Isa* kAvx512Vnni = nullptr;
#endif
#ifdef WHISPERQ_HAVE_AVX512BF16
constexpr Isa kAvx512Bf16Isa{kernels::kAvx512Bf16Table, audio::kFramesAvx512, decoding::kRowMathAvx512};
constexpr const Isa* kAvx512Bf16 = &kAvx512Bf16Isa;
#else
constexpr const Isa* kAvx512Bf16 = nullptr;
#endif
// The vectors that mel frames and row math need are in ARMv8 from its first version on.
#ifdef WHISPERQ_HAVE_NEON
constexpr Isa kNeonIsa{kernels::kNeonTable, audio::kFramesBaseline, decoding::kRowMathBaseline};
constexpr const Isa* kNeon = &kNeonIsa;
#else
constexpr const Isa* kNeon = nullptr;
#endif
#ifdef WHISPERQ_HAVE_NEON_DOTPROD
constexpr Isa kNeonDotprodIsa{kernels::kNeonDotprodTable, audio::kFramesBaseline, decoding::kRowMathBaseline};
constexpr const Isa* kNeonDotprod = &kNeonDotprodIsa;
#else
constexpr const Isa* kNeonDotprod = nullptr;
#endif
#ifdef WHISPERQ_HAVE_NEON_I8MM
constexpr Isa kNeonI8mmIsa{kernels::kNeonI8mmTable, audio::kFramesBaseline, decoding::kRowMathBaseline};
constexpr const Isa* kNeonI8mm = &kNeonI8mmIsa;
#else
constexpr const Isa* kNeonI8mm = nullptr;
#endif

#define WHISPERQ_AVX2_FEATURES "sse3", "ssse3", "sse4_1", "sse4_2", "popcnt", "avx", "f16c", "fma", "avx2", "bmi2"
#define WHISPERQ_AVX512VNNI_FEATURES WHISPERQ_AVX2_FEATURES, "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni"

const Row kRows[] = {
    {"scalar", nullptr, &kScalar, {}},
    {"avx2", "x86_64", kAvx2, {WHISPERQ_AVX2_FEATURES}},
    {"avx512vnni", "x86_64", kAvx512Vnni, {WHISPERQ_AVX512VNNI_FEATURES}},
    {"avx512bf16", "x86_64", kAvx512Bf16, {WHISPERQ_AVX512VNNI_FEATURES, "avx512bf16"}},
    {"neon", "aarch64", kNeon, {"neon"}},
    // ARMv8.2 comes with CRC32, LSE and RDM, which ARMv8.1 made mandatory: no CPU has dotprod without them.
    {"neon_dotprod", "aarch64", kNeonDotprod, {"neon", "dotprod"}},
    {"neon_i8mm", "aarch64", kNeonI8mm, {"neon", "dotprod", "i8mm"}},
};

bool has(const char* feature) {
    const std::vector<CpuFeature>& cpu = cpu_features();
    return std::any_of(cpu.begin(), cpu.end(),
                       [&](const CpuFeature& f) { return f.found && std::strcmp(f.name, feature) == 0; });
}

// Return the features of a row that this CPU lacks, or its family, as words.
std::string lacking(const Row& row) {
    if (row.family != nullptr && std::strcmp(row.family, cpu_family()) != 0) return std::string("is not ") + row.family;
    std::string lacks;
    for (const char* feature : row.features) {
        if (!has(feature)) lacks += std::string(lacks.empty() ? "lacks " : " ") + feature;
    }
    return lacks;
}

std::vector<IsaInfo> list_isas() {
    std::vector<IsaInfo> all;
    for (const Row& row : kRows) all.push_back({row.name, lacking(row).empty(), row.isa});
    return all;
}

std::string choices() {
    std::string known, usable;
    for (const IsaInfo& info : isas()) {
        known += std::string(" ") + info.name;
        if (info.is_usable()) usable += std::string(" ") + info.name;
    }
    return "built and supported here: auto" + usable + " (all:" + known + ")";
}

// Return the instruction set of this name. `source` is where the name came from, for the message.
const Isa& select(const std::string& source, const std::string& name) {
    const auto is_meant = [&](const IsaInfo& info) { return name == info.name; };
    const auto found = std::find_if(isas().begin(), isas().end(), is_meant);
    if (found == isas().end()) {
        throw Error(Status::unknown_isa, source + " is '" + name + "', which is no ISA of ours; " + choices());
    }
    if (!found->is_built()) {
        throw Error(Status::isa_not_built,
                    source + " is " + name + ", which this build does not contain; " + choices());
    }
    if (!found->supported) {
        throw Error(Status::isa_not_supported, source + " is " + name + ", but this CPU (or its OS) " +
                                                   lacking(kRows[found - isas().begin()]) + "; " + choices());
    }
    return *found->isa;
}

}  // namespace

const std::vector<IsaInfo>& isas() {
    static const std::vector<IsaInfo> all = list_isas();
    return all;
}

const Isa& best_isa() {
    const Isa* best = &kScalar;
    for (const IsaInfo& info : isas()) {
        if (info.is_usable()) best = info.isa;
    }
    return *best;
}

const Isa& isa_named(const std::string& name) {
    return select("the ISA", name);
}

const Isa& chosen_isa() {
    const char* name = std::getenv(kVariable);
    if (name == nullptr || *name == '\0' || std::strcmp(name, "auto") == 0) return best_isa();
    return select(kVariable, name);
}

const Isa& isa_for(const std::string& name) {
    return name.empty() || name == "auto" ? chosen_isa() : isa_named(name);
}

}  // namespace whisperq::dispatch
