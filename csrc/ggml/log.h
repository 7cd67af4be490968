// Upstream's log lines, kept until Python fetches them: the library never prints, and a log callback may run on a
// thread that must not touch Python.
#pragma once

#include <string>
#include <vector>

namespace whisperq::ggml {

struct LogLine {
    int level;  // a level of Python's logging module
    std::string text;
};

// Sends the logs of whisper.cpp and ggml here. Called once, when the module is imported.
void capture_logs();

// The lines since the last call, oldest first. At most the last few hundred are kept.
std::vector<LogLine> take_log();

// The last warning or error line, for the message of an exception.
std::string last_complaint();

// Throws Error(Status::inference): what failed, and that line.
[[noreturn]] void fail(const std::string& what);

}  // namespace whisperq::ggml
