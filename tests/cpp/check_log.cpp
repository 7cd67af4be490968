// The test of csrc/ggml/log, built by tests/engines/test_ggml_engine.py: this program stands in for whisper.cpp and complains.
// Exit code 0: all right.
#include <cstdio>
#include <string>
#include <thread>

#include "core/status.h"
#include "ggml/log.h"
#include "whisper.h"

using whisperq::ggml::CallLog;
using whisperq::ggml::last_complaint;
using whisperq::ggml::LogLine;

namespace {

ggml_log_callback say = nullptr;
int n_wrong = 0;

void expect(const std::string& found, const std::string& wanted) {
    if (found == wanted) return;
    ++n_wrong;
    std::fprintf(stderr, "wrong: \"%s\" instead of \"%s\"\n", found.c_str(), wanted.c_str());
}

void complain(const std::string& text) {
    say(GGML_LOG_LEVEL_ERROR, (text + "\n").c_str(), nullptr);
}

const std::string kNoReason = "whisper.cpp gave no reason";

void an_earlier_call_is_not_quoted() {
    {
        const CallLog call;
        expect(last_complaint(), kNoReason);
        complain("bad magic");
        expect(last_complaint(), "bad magic");
    }
    complain("between calls");
    expect(last_complaint(), kNoReason);
    const CallLog call;
    expect(last_complaint(), kNoReason);
}

void another_thread_is_not_quoted() {
    const CallLog call;
    complain("ours");
    std::thread([] {
        const CallLog theirs;
        expect(last_complaint(), kNoReason);
        complain("theirs");
        expect(last_complaint(), "theirs");
    }).join();
    expect(last_complaint(), "ours");
}

void a_call_inside_of_a_callback_leaves_the_outer_one_as_it_was() {
    const CallLog outer;
    {
        const CallLog inner;
        complain("inner");
    }
    expect(last_complaint(), kNoReason);
    complain("outer");
    {
        const CallLog inner;
        expect(last_complaint(), kNoReason);
    }
    expect(last_complaint(), "outer");
}

void halves_of_lines_are_not_mixed() {
    whisperq::ggml::take_log();
    const CallLog call;
    say(GGML_LOG_LEVEL_WARN, "one ", nullptr);
    std::thread([] { say(GGML_LOG_LEVEL_INFO, "something else\n", nullptr); }).join();
    say(GGML_LOG_LEVEL_CONT, "two\n", nullptr);
    expect(last_complaint(), "one two");
    std::string all;
    for (const LogLine& line : whisperq::ggml::take_log()) all += std::to_string(line.level) + " " + line.text + "; ";
    expect(all, "10 something else; 30 one two; ");
}

void the_error_quotes_the_call() {
    const CallLog call;
    complain("no memory");
    try {
        whisperq::ggml::fail("the encoder failed");
    } catch (const whisperq::Error& error) {
        expect(error.what(), "the encoder failed: no memory");
    }
}

}  // namespace

void whisper_log_set(ggml_log_callback callback, void*) {
    say = callback;
}

int main() {
    whisperq::ggml::capture_logs();
    an_earlier_call_is_not_quoted();
    another_thread_is_not_quoted();
    a_call_inside_of_a_callback_leaves_the_outer_one_as_it_was();
    halves_of_lines_are_not_mixed();
    the_error_quotes_the_call();
    return n_wrong == 0 ? 0 : 1;
}
