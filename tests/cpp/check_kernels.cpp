// check_kernels [--isa=NAME] [--quick] [--readable-guards] [--bench] [--json] [--list]
//
// Proves every kernel of every ISA that is built and supported here (or of NAME, where auto is the one that the engine
// would take): against double precision, against the scalar kernels, and for touching nothing outside. Only then, and
// only if asked, measures them (bench_kernels.cpp). --quick takes fewer shapes, for emulators; --list only says what
// there is. --readable-guards lets kernels read behind their arrays, because qemu reads the values that AVX's masked
// loads leave out; writing there still ends the program.
//
// Tolerances are formulas, `c * eps * sqrt(k) * sum|terms|` at their core: k roundings of random direction, each of at
// most half an eps of the terms summed so far. One line an ISA and kernel: comparisons, and the worst error as a share
// of its tolerance. Exit code 0: all right; 1: a kernel is wrong; 2: a bad option, or an ISA that cannot be had here.
#include "check_kernels.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench_kernels.h"
#include "core/status.h"
#include "dispatch/isas.h"
#include "kernels/tables.h"

namespace check {
namespace {

namespace dispatch = whisperq::dispatch;

void on_crash(int signal) {
    if (Report::current() != nullptr) Report::current()->crashed(signal);
    std::_Exit(1);
}

std::vector<Result> check_isa(const k::KernelTable& table, bool quick) {
    Checker checker{table, quick, {}};
    if (&table == &k::kScalarTable) {
        check_pack(checker);
        check_scalar_strip(checker);
    }
    check_quantize(checker);
    check_multiply_strip(checker);
    check_multiply_float(checker);
    check_multiply_packed(checker);
    check_multiply_half(checker);
    check_half_to_float(checker);
    check_float_to_half(checker);
    check_layer_norm(checker);
    check_gelu(checker);
    check_attention(checker);
    check_quantize_head(checker);
    check_score_keys(checker);
    check_softmax(checker);
    check_mix_values(checker);
    return checker.results;
}

struct Options {
    std::string isa;
    bool quick = false, bench = false, json = false, list = false;
};

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        if (argument.rfind("--isa=", 0) == 0) {
            options.isa = argument.substr(6);
        } else if (argument == "--quick") {
            options.quick = true;
        } else if (argument == "--readable-guards") {
            guards_are_readable() = true;
        } else if (argument == "--bench") {
            options.bench = true;
        } else if (argument == "--json") {
            options.json = true;
        } else if (argument == "--list") {
            options.list = true;
        } else {
            std::fprintf(stderr,
                         "%s: unknown option; check_kernels [--isa=NAME] [--quick] [--readable-guards] [--bench] "
                         "[--json] [--list]\n",
                         argv[i]);
            std::exit(2);
        }
    }
    return options;
}

void print_result(const Result& result) {
    std::printf("%-12s %-20s %9lld comparisons, worst error %5.3f of its tolerance%s\n", result.isa.c_str(),
                result.kernel.c_str(), static_cast<long long>(result.count), result.worst,
                result.failures == 0 ? "" : (", " + std::to_string(result.failures) + " FAILED").c_str());
    std::fflush(stdout);
}

void print_json(const char* chosen, const std::vector<Result>& results, const std::vector<Timing>& timings) {
    std::printf("{\"chosen\": \"%s\", \"isas\": [", chosen);
    const char* comma = "";
    for (const dispatch::IsaInfo& isa : dispatch::isas()) {
        std::printf("%s{\"name\": \"%s\", \"built\": %s, \"supported\": %s}", comma, isa.name,
                    isa.is_built() ? "true" : "false", isa.supported ? "true" : "false");
        comma = ", ";
    }
    std::printf("],\n \"checks\": [");
    comma = "";
    for (const Result& r : results) {
        std::printf("%s\n  {\"isa\": \"%s\", \"kernel\": \"%s\", \"count\": %lld, \"failures\": %lld, \"worst\": %.4f}",
                    comma, r.isa.c_str(), r.kernel.c_str(), static_cast<long long>(r.count),
                    static_cast<long long>(r.failures), r.worst);
        comma = ",";
    }
    std::printf("],\n \"bench\": [");
    comma = "";
    for (const Timing& t : timings) {
        std::printf(
            "%s\n  {\"isa\": \"%s\", \"kernel\": \"%s\", \"shape\": \"%s\", \"unit\": \"%s\", \"rate\": %.3f, "
            "\"peak\": %.3f}",
            comma, t.isa.c_str(), t.kernel.c_str(), t.shape.c_str(), t.unit.c_str(), t.rate, t.peak);
        comma = ",";
    }
    std::printf("]}\n");
}

int run(const Options& options) {
    const bool all = options.isa.empty(), choose = all || options.isa == "auto";
    const dispatch::Isa& chosen = choose ? dispatch::chosen_isa() : dispatch::isa_named(options.isa);
    if (!options.json) std::printf("chosen: %s\n", chosen.name());
    std::vector<const k::KernelTable*> tables;
    for (const dispatch::IsaInfo& isa : dispatch::isas()) {
        const bool wanted = all || isa.isa == &chosen;
        if (isa.is_usable() && wanted && !options.list) tables.push_back(&isa.isa->kernels);
        if (wanted && !options.json && !isa.is_usable()) {
            std::printf("%-12s %s\n", isa.name, isa.is_built() ? "not supported by this CPU" : "not in this build");
        }
    }
    std::vector<Result> results;
    bool right = true;
    for (const k::KernelTable* table : tables) {
        for (const Result& result : check_isa(*table, options.quick)) {
            right = right && result.failures == 0 && result.count > 0;
            if (!options.json) print_result(result);
            results.push_back(result);
        }
    }
    std::vector<Timing> timings;
    for (const k::KernelTable* table : tables) {
        if (!options.bench || !right) break;
        for (const Timing& timing : bench(*table)) {
            if (!options.json) print_timing(timing);
            timings.push_back(timing);
        }
    }
    if (options.json) print_json(chosen.name(), results, timings);
    return right ? 0 : 1;
}

}  // namespace
}  // namespace check

int main(int argc, char** argv) {
    for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) std::signal(signal, check::on_crash);
    try {
        return check::run(check::parse(argc, argv));
    } catch (const whisperq::Error& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 2;
    }
}
