#include "kernels/dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "core/cpu_features.h"
#include "core/status.h"
#include "kernels/tables.h"

namespace whisperq::kernels {
namespace {

constexpr const char* kVariable = "WHISPERQ_ISA";

// One row per ISA, slowest first: its table, and every feature (core/cpu_features) that its flags in
// cmake/Kernels.cmake let the compiler use. One CPU has AVX2 but no FMA, another's hypervisor hides F16C: none follows
// from another.
struct Row {
    const char* name;
    const char* family;  // of CPUs; nullptr: all
    const KernelTable* table;
    std::initializer_list<const char*> features;
};

#ifdef WHISPERQ_HAVE_AVX2
constexpr const KernelTable* kAvx2 = &kAvx2Table;
#else
constexpr const KernelTable* kAvx2 = nullptr;
#endif
#ifdef WHISPERQ_HAVE_AVX512VNNI
constexpr const KernelTable* kAvx512Vnni = &kAvx512VnniTable;
#else
constexpr const KernelTable* kAvx512Vnni = nullptr;
#endif
#ifdef WHISPERQ_HAVE_AVX512BF16
constexpr const KernelTable* kAvx512Bf16 = &kAvx512Bf16Table;
#else
constexpr const KernelTable* kAvx512Bf16 = nullptr;
#endif
#ifdef WHISPERQ_HAVE_NEON
constexpr const KernelTable* kNeon = &kNeonTable;
#else
constexpr const KernelTable* kNeon = nullptr;
#endif
#ifdef WHISPERQ_HAVE_NEON_DOTPROD
constexpr const KernelTable* kNeonDotprod = &kNeonDotprodTable;
#else
constexpr const KernelTable* kNeonDotprod = nullptr;
#endif
#ifdef WHISPERQ_HAVE_NEON_I8MM
constexpr const KernelTable* kNeonI8mm = &kNeonI8mmTable;
#else
constexpr const KernelTable* kNeonI8mm = nullptr;
#endif

#define WHISPERQ_AVX2_FEATURES "sse3", "ssse3", "sse4_1", "sse4_2", "popcnt", "avx", "f16c", "fma", "avx2", "bmi2"
#define WHISPERQ_AVX512VNNI_FEATURES WHISPERQ_AVX2_FEATURES, "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512vnni"

const Row kRows[] = {
    {"scalar", nullptr, &kScalarTable, {}},
    {"avx2", "x86_64", kAvx2, {WHISPERQ_AVX2_FEATURES}},
    {"avx512vnni", "x86_64", kAvx512Vnni, {WHISPERQ_AVX512VNNI_FEATURES}},
    {"avx512bf16", "x86_64", kAvx512Bf16, {WHISPERQ_AVX512VNNI_FEATURES, "avx512bf16"}},
    {"neon", "aarch64", kNeon, {"neon"}},
    // ARMv8.2 comes with CRC32, LSE and RDM, which ARMv8.1 made mandatory: no CPU has dotprod without them.
    {"neon_dotprod", "aarch64", kNeonDotprod, {"neon", "dotprod"}},
    {"neon_i8mm", "aarch64", kNeonI8mm, {"neon", "dotprod", "i8mm"}},
};

bool has(const std::vector<CpuFeature>& cpu, const char* feature) {
    return std::any_of(cpu.begin(), cpu.end(),
                       [&](const CpuFeature& f) { return f.found && std::strcmp(f.name, feature) == 0; });
}

// The features of a row that this CPU lacks, or its family, as words.
std::string lacking(const Row& row, const std::vector<CpuFeature>& cpu) {
    if (row.family != nullptr && std::strcmp(row.family, cpu_family()) != 0) return std::string("is not ") + row.family;
    std::string lacks;
    for (const char* feature : row.features) {
        if (!has(cpu, feature)) lacks += std::string(lacks.empty() ? "lacks " : " ") + feature;
    }
    return lacks;
}

std::string choices(const std::vector<CpuFeature>& cpu) {
    std::string known, usable;
    for (const Row& row : kRows) {
        known += std::string(" ") + row.name;
        if (row.table != nullptr && lacking(row, cpu).empty()) usable += std::string(" ") + row.name;
    }
    return "built and supported here: auto" + usable + " (all:" + known + ")";
}

// `source` is what the name came from, for the message.
const KernelTable& select(const std::string& source, const std::string& name) {
    const std::vector<CpuFeature> cpu = cpu_features();
    for (const Row& row : kRows) {
        if (name != row.name) continue;
        const std::string lacks = lacking(row, cpu);
        if (row.table == nullptr) {
            throw Error(Status::isa_not_built,
                        source + " is " + name + ", which this build does not contain; " + choices(cpu));
        }
        if (!lacks.empty()) {
            throw Error(Status::isa_not_supported,
                        source + " is " + name + ", but this CPU (or its OS) " + lacks + "; " + choices(cpu));
        }
        return *row.table;
    }
    throw Error(Status::unknown_isa, source + " is '" + name + "', which is no ISA of ours; " + choices(cpu));
}

}  // namespace

std::vector<IsaInfo> isas() {
    const std::vector<CpuFeature> cpu = cpu_features();
    std::vector<IsaInfo> all;
    for (const Row& row : kRows) {
        all.push_back({row.name, row.table != nullptr, lacking(row, cpu).empty(), row.table});
    }
    return all;
}

const KernelTable& best_kernels() {
    const KernelTable* best = &kScalarTable;
    for (const IsaInfo& isa : isas()) {
        if (isa.built && isa.supported) best = isa.table;
    }
    return *best;
}

const KernelTable& kernels_named(const std::string& name) {
    return select("the ISA", name);
}

const KernelTable& chosen_kernels() {
    const char* name = std::getenv(kVariable);
    if (name == nullptr || *name == '\0' || std::strcmp(name, "auto") == 0) return best_kernels();
    return select(kVariable, name);
}

const KernelTable& kernels_for(const std::string& isa) {
    return isa.empty() || isa == "auto" ? chosen_kernels() : kernels_named(isa);
}

}  // namespace whisperq::kernels
