#include "ggml/log.h"

#include <deque>
#include <mutex>

#include "core/status.h"
#include "whisper.h"

namespace whisperq::ggml {
namespace {

constexpr size_t kMaxLines = 512;

struct Log {
    std::mutex mutex;
    std::deque<LogLine> lines;
    std::string unfinished;  // ggml continues a line with GGML_LOG_LEVEL_CONT
    int unfinished_level = 0;
    std::string complaint;
};

Log& the_log() {
    static Log* log = new Log;  // never destroyed: a backend may still log at exit
    return *log;
}

int python_level(ggml_log_level level) {
    switch (level) {
        case GGML_LOG_LEVEL_ERROR:
            return 40;
        case GGML_LOG_LEVEL_WARN:
            return 30;
        default:
            return 10;  // upstream's "info" is a page for every model: debug for our users
    }
}

void append(Log& log, std::string line) {
    if (log.unfinished_level >= 30) log.complaint = line;
    if (log.lines.size() == kMaxLines) log.lines.pop_front();
    log.lines.push_back({log.unfinished_level, std::move(line)});
}

void on_log(ggml_log_level level, const char* text, void*) {
    Log& log = the_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    if (level != GGML_LOG_LEVEL_CONT) log.unfinished_level = python_level(level);
    log.unfinished += text;
    for (size_t end; (end = log.unfinished.find('\n')) != std::string::npos;) {
        if (end > 0) append(log, log.unfinished.substr(0, end));
        log.unfinished.erase(0, end + 1);
    }
}

}  // namespace

void capture_logs() {
    whisper_log_set(on_log, nullptr);
}

std::vector<LogLine> take_log() {
    Log& log = the_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    std::vector<LogLine> lines(log.lines.begin(), log.lines.end());
    log.lines.clear();
    return lines;
}

std::string last_complaint() {
    Log& log = the_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    return log.complaint.empty() ? "whisper.cpp gave no reason" : log.complaint;
}

void fail(const std::string& what) {
    throw Error(Status::inference, what + ": " + last_complaint());
}

}  // namespace whisperq::ggml
