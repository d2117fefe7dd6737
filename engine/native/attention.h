// Attention of new rows over a paged bfloat16 cache, in float32.
//
// Keys are visited 16 at a time, one cache block, in the order of their positions, with the same instructions
// for every row: a row's result depends neither on the rows beside it nor on how its prompt was cut up.
#pragma once
#include <cmath>
#include <vector>

#include "vector.h"

constexpr int kBlockTokens = 16;
constexpr int kTileQueries = 8;  // rows of one sequence that share the conversion of a block

struct Heads {
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t shared() const { return num_heads / num_kv_heads; }
};

// Some rows of a sequence and some query heads of one kv head.
struct AttentionTask {
  int64_t first_row, num_rows, first_head, num_heads;
  const int64_t* block_ids;
};

// Adds up each of 16 vectors: lane i of the result is the sum of part[i].
inline Floats sum_each(const Floats* part) {
  Floats level[16];
  for (int at = 0; at < 8; ++at) {
    const Floats a = part[2 * at], b = part[2 * at + 1];
    level[at] = __builtin_shuffle(a, b, Ints{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30}) +
                __builtin_shuffle(a, b, Ints{1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31});
  }
  for (int at = 0; at < 4; ++at) {
    const Floats a = level[2 * at], b = level[2 * at + 1];
    level[at] = __builtin_shuffle(a, b, Ints{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29}) +
                __builtin_shuffle(a, b, Ints{2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31});
  }
  for (int at = 0; at < 2; ++at) {
    const Floats a = level[2 * at], b = level[2 * at + 1];
    level[at] = __builtin_shuffle(a, b, Ints{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27}) +
                __builtin_shuffle(a, b, Ints{4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31});
  }
  const Floats a = level[0], b = level[1];
  return __builtin_shuffle(a, b, Ints{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}) +
         __builtin_shuffle(a, b, Ints{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31});
}

// Scores of one query against the 16 keys of a block: [16].
template <int Parts>
__attribute__((noinline)) Floats score_block(const float* query, const float* keys) {
  Floats products[kBlockTokens];
  for (int key = 0; key < kBlockTokens; ++key) {
    Floats product = load(query) * load(keys + key * Parts * kLanes);
    for (int part = 1; part < Parts; ++part)
      product += load(query + part * kLanes) * load(keys + (key * Parts + part) * kLanes);
    products[key] = product;
  }
  return sum_each(products);
}

// output += weights [16] x values [16, d]
template <int Parts>
__attribute__((noinline)) void add_block(float* output, const float* weights, const float* values) {
  Floats totals[Parts];
  for (int part = 0; part < Parts; ++part) totals[part] = load(output + part * kLanes);
  for (int key = 0; key < kBlockTokens; ++key)
    for (int part = 0; part < Parts; ++part)
      totals[part] += load(values + (key * Parts + part) * kLanes) * weights[key];
  for (int part = 0; part < Parts; ++part) store(output + part * kLanes, totals[part]);
}

// One head of a block of the cache as floats: [16, d].
template <int Parts>
inline void convert_block(const uint16_t* layer, int64_t block, int64_t head, int64_t heads, float* to) {
  for (int key = 0; key < kBlockTokens; ++key) {
    const uint16_t* from = layer + ((block * kBlockTokens + key) * heads + head) * Parts * kLanes;
    for (int part = 0; part < Parts; ++part)
      store(to + (key * Parts + part) * kLanes, load_bfloat16(from + part * kLanes));
  }
}

// Turns scores into weights that add up to 1; what lies beyond `num_keys` gets none.
inline void soften(float* scores, int64_t num_keys) {
  const int64_t end = (num_keys + kLanes - 1) / kLanes * kLanes;
  for (int64_t at = num_keys; at < end; ++at) scores[at] = -INFINITY;
  Floats most = load(scores);
  for (int64_t at = kLanes; at < end; at += kLanes) most = larger(most, load(scores + at));
  const float peak = largest(most);
  Floats total = Floats{};
  for (int64_t at = 0; at < end; at += kLanes) {
    const Floats score = load(scores + at) - peak;
    const Floats weight = score < -87.0f ? Floats{} : exponential(score);
    store(scores + at, weight);
    total += weight;
  }
  const float inverse = 1.0f / sum(total);
  for (int64_t at = 0; at < end; at += kLanes) store(scores + at, load(scores + at) * inverse);
}

// queries and outputs [rows, heads, d], the queries already scaled; `layer` [slots, 2 * kv heads, d].
template <int Parts>
void attend_task(const AttentionTask& task, const Heads& heads, const int64_t* positions, const uint16_t* layer,
                 const float* queries, float* outputs, std::vector<float>& scores) {
  const int64_t kv_head = task.first_head / heads.shared(), d = heads.head_dim;
  const int64_t most_keys = positions[task.first_row + task.num_rows - 1] + 1;
  const int64_t num_blocks = (most_keys + kBlockTokens - 1) / kBlockTokens, width = num_blocks * kBlockTokens;
  const int64_t count = task.num_rows * task.num_heads;
  if (static_cast<int64_t>(scores.size()) < count * width) scores.resize(count * width);
  alignas(64) float block[kBlockTokens * Parts * kLanes];
  auto row_of = [&](int64_t at) { return task.first_row + at / task.num_heads; };
  auto place = [&](int64_t at) { return (row_of(at) * heads.num_heads + task.first_head + at % task.num_heads) * d; };
  for (int64_t index = 0; index < num_blocks; ++index) {
    convert_block<Parts>(layer, task.block_ids[index], kv_head, 2 * heads.num_kv_heads, block);
    for (int64_t at = 0; at < count; ++at)
      if (positions[row_of(at)] >= index * kBlockTokens)
        store(&scores[at * width + index * kBlockTokens], score_block<Parts>(queries + place(at), block));
  }
  for (int64_t at = 0; at < count; ++at) {
    soften(&scores[at * width], positions[row_of(at)] + 1);
    std::memset(outputs + place(at), 0, d * sizeof(float));
  }
  for (int64_t index = 0; index < num_blocks; ++index) {
    convert_block<Parts>(layer, task.block_ids[index], heads.num_kv_heads + kv_head, 2 * heads.num_kv_heads, block);
    for (int64_t at = 0; at < count; ++at)
      if (positions[row_of(at)] >= index * kBlockTokens)
        add_block<Parts>(outputs + place(at), &scores[at * width + index * kBlockTokens], block);
  }
}

inline void attend(const AttentionTask& task, const Heads& heads, const int64_t* positions, const uint16_t* layer,
                   const float* queries, float* outputs, std::vector<float>& scores) {
  switch (heads.head_dim / kLanes) {
    case 1: return attend_task<1>(task, heads, positions, layer, queries, outputs, scores);
    case 2: return attend_task<2>(task, heads, positions, layer, queries, outputs, scores);
    case 3: return attend_task<3>(task, heads, positions, layer, queries, outputs, scores);
    case 4: return attend_task<4>(task, heads, positions, layer, queries, outputs, scores);
    case 5: return attend_task<5>(task, heads, positions, layer, queries, outputs, scores);
    case 6: return attend_task<6>(task, heads, positions, layer, queries, outputs, scores);
    case 8: return attend_task<8>(task, heads, positions, layer, queries, outputs, scores);
    default: return attend_task<16>(task, heads, positions, layer, queries, outputs, scores);
  }
}
