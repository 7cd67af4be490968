// Times of tokens, found in the scores of the cross-attention. This is openai/whisper's find_alignment
// (whisper/timing.py), up to the path that its words are read from.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "decoding/decode_windows.h"
#include "decoding/language_model.h"
#include "decoding/row_math.h"

namespace whisperq::decoding {

constexpr int64_t kMedianWidth = 7;

// A path through tokens (rows) and audio tokens (columns), from first to last.
struct AlignmentPath {
    std::vector<int64_t> text_indices, time_indices;
};

// Return the path of least cost through a matrix [n][m] from corner to corner, by dynamic time warping. A step along
// both is taken where it is cheaper than the two others. So is a step along the rows. Otherwise the step is along the
// columns.
AlignmentPath dtw(const double* cost, int64_t n, int64_t m);

// Compute the median of `width` (odd) values around each of n, reflected at the ends. Up to width / 2 values are left
// as they are. `out` must not overlap `x`.
void median_filter(const float* x, int64_t n, int64_t width, float* out);

// Return [end_row - first_row][n_columns]: how much each of these rows belongs to each of the first n_columns audio
// tokens. The steps are softmax over the columns, standardisation over all tokens, median filter, and the mean over the
// heads. `scores` is [n_heads][n_tokens][n_ctx], and is changed. Where all tokens agree (openai: 0 / 0), the result is
// 0.
std::vector<float> attention_matrix(float* scores, int64_t n_heads, int64_t n_tokens, int64_t n_ctx, int64_t n_columns,
                                    int64_t first_row, int64_t end_row, const RowMath& math);

struct AlignRequest {
    std::vector<int32_t> sot_sequence;  // <|startoftranscript|>, language, task
    std::vector<int32_t> text_tokens;   // without times
    int64_t n_audio_tokens = 0;         // those of the window that are audio: half of its frames
};

struct AlignResult {
    AlignmentPath path;                // over text_tokens and eot, audio tokens of 20 ms
    std::vector<float> probabilities;  // of each text token, among the tokens of text
    bool is_complete = false;          // false: should_stop() came before
};

struct AlignOptions {
    int32_t eot = -1, no_timestamps = -1;
    LanguageModel::Heads heads;  // the model's alignment heads
};

// The memory of align_windows(), computed before anything is allocated.
struct AlignNeeds {
    int64_t n_together = 0;     // windows whose scores are in memory at the same time
    int64_t n_pass_tokens = 0;  // of a window, in a pass of the model
    size_t n_bytes = 0;         // at most, beside what the model itself takes for such a pass
};

// Return the memory that align_windows() takes. `n_tokens` counts each window's tokens, sot_sequence, no_timestamps and
// eot among them. All numbers are from 1 on.
AlignNeeds align_needs(int64_t n_windows, int64_t n_tokens, int64_t n_heads, int64_t n_ctx, int64_t n_vocab);

// Return the paths of windows, as decode_windows() does results. A window without text tokens has an empty path.
std::vector<AlignResult> align_windows(LanguageModel& model, const std::vector<AlignRequest>& requests,
                                       const AlignOptions& options, const std::function<bool()>& should_stop,
                                       DecodeStages& stages);

}  // namespace whisperq::decoding
