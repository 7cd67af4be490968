// Upstream's log lines, kept until Python fetches them: the library never prints, and a log callback may run on a
// thread that must not touch Python.
#pragma once

#include <string>
#include <vector>

namespace whisperq::ggml {

struct LogLine {
    int level = 10;  // a level of Python's logging module: debug
    std::string text;
};

// Sends the logs of whisper.cpp and ggml here. Called once, when the module is imported.
void capture_logs();

// The lines since the last call, oldest first. At most the last few hundred are kept.
std::vector<LogLine> take_log();

// One call of whisper.cpp on this thread, from its beginning to its end: no error quotes what an earlier call or
// another thread complained of.
class CallLog {
  public:
    CallLog();
    ~CallLog();
    CallLog(const CallLog&) = delete;
    CallLog& operator=(const CallLog&) = delete;

  private:
    bool is_outermost_;
    std::string outer_;  // what a call complained of whose callback began this one
};

// The last warning or error line of this thread's CallLog, for the message of an exception.
std::string last_complaint();

// Throws Error(Status::inference): what failed, and that line.
[[noreturn]] void fail(const std::string& what);

}  // namespace whisperq::ggml
