#include "ggml/log.h"

#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "core/status.h"
#include "whisper.h"

namespace whisperq::ggml {
namespace {

constexpr size_t kMaxLines = 512;

// By thread: two calls at a time neither mix the halves of their lines nor quote each other.
struct Log {
    std::mutex mutex;
    std::deque<LogLine> lines;
    std::unordered_map<std::thread::id, LogLine> unfinished;     // ggml continues a line with GGML_LOG_LEVEL_CONT
    std::unordered_map<std::thread::id, std::string> complaint;  // of the call that is in progress
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

void append(Log& log, LogLine line) {
    const auto call = log.complaint.find(std::this_thread::get_id());
    if (line.level >= 30 && call != log.complaint.end()) call->second = line.text;
    if (log.lines.size() == kMaxLines) log.lines.pop_front();
    log.lines.push_back(std::move(line));
}

void on_log(ggml_log_level level, const char* text, void*) {
    Log& log = the_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    LogLine& unfinished = log.unfinished[std::this_thread::get_id()];
    if (level != GGML_LOG_LEVEL_CONT) unfinished.level = python_level(level);
    unfinished.text += text;
    for (size_t end; (end = unfinished.text.find('\n')) != std::string::npos;) {
        if (end > 0) append(log, {unfinished.level, unfinished.text.substr(0, end)});
        unfinished.text.erase(0, end + 1);
    }
    if (unfinished.text.empty()) log.unfinished.erase(std::this_thread::get_id());  // threads come and go
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

CallLog::CallLog() {
    Log& log = the_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    const auto [call, is_outermost] = log.complaint.try_emplace(std::this_thread::get_id());
    is_outermost_ = is_outermost;
    call->second.swap(outer_);
}

CallLog::~CallLog() {
    Log& log = the_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    if (is_outermost_) {
        log.complaint.erase(std::this_thread::get_id());
    } else {
        log.complaint[std::this_thread::get_id()] = std::move(outer_);
    }
}

std::string last_complaint() {
    Log& log = the_log();
    const std::lock_guard<std::mutex> lock(log.mutex);
    const auto call = log.complaint.find(std::this_thread::get_id());
    return call == log.complaint.end() || call->second.empty() ? "whisper.cpp gave no reason" : call->second;
}

void fail(const std::string& what) {
    throw Error(Status::inference, what + ": " + last_complaint());
}

}  // namespace whisperq::ggml
