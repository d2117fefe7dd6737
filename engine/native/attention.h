// Attention of new rows over a paged bfloat16 cache, a tile of sixteen queries at a time.
//
// A query is one head of one row; those of a tile share a kv head and each has a lane of its own: scores are
// keys x queries, outputs are values x weights, both with queries as columns. Keys are visited 64 at a time,
// counted from the start of the sequence, with a running maximum; what a query may not see weighs exactly
// nothing. So no bit of a row depends on the rows beside it nor on how its prompt was cut up.
//
// A block of the cache holds, for each kv head, keys [16 tokens][d], then for each kv head values [d][16 tokens].
#pragma once
#include <cmath>
#include <vector>

#include "tiles.h"

constexpr int kBlockTokens = 16;
constexpr int kStrideBlocks = 4;  // blocks of the cache visited at a time
constexpr int kMostDepth = 256;   // of a head

struct Heads {
  int64_t num_heads, num_kv_heads, head_dim;
  int64_t shared() const { return num_heads / num_kv_heads; }
  int64_t block_size() const { return kBlockTokens * 2 * num_kv_heads * head_dim; }
};

// Where a sequence's blocks are: in the cache by their numbers, from `num_cached` on one after the other at `tail`.
struct BlockTable {
  const int64_t* block_ids;
  int64_t num_cached = INT64_MAX;
  const uint16_t* tail = nullptr;

  const uint16_t* block(const Heads& heads, const uint16_t* cache, int64_t index) const {
    if (index >= num_cached) return tail + (index - num_cached) * heads.block_size();
    return cache + block_ids[index] * heads.block_size();
  }
};

// Up to sixteen queries of a sequence that share a kv head, numbered from `first` row by row.
struct AttentionTask {
  int64_t first_row, first, count, kv_head;
  BlockTable table;
};

// Where a token's keys go (one head after the other is `key_step` apart) and its values.
struct Place {
  uint16_t *keys, *values;
};

inline Place place_of(const Heads& heads, uint16_t* layer, int64_t slot, int64_t kv_head) {
  uint16_t* block = layer + slot / kBlockTokens * heads.block_size();
  const int64_t token = slot % kBlockTokens, size = kBlockTokens * heads.head_dim;
  return {block + kv_head * size + token * heads.head_dim, block + (heads.num_kv_heads + kv_head) * size + token};
}

// What one thread needs for one tile.
struct alignas(64) AttentionScratch {
  uint32_t queries[2][kMostDepth / 2][kLanes];  // rounded to bfloat16, and what that left over
  float scores[2][kStrideBlocks * kBlockTokens][kLanes];
  uint32_t weights[kStrideBlocks * kBlockTokens / 2][kLanes];
  float outputs[kMostDepth][kLanes];
  Floats peak, total;
};

// Queries, in units of the power of two, as columns: lane by lane in, pair by pair out.
inline void gather_queries(const AttentionTask& task, const Heads& heads, const float* queries,
                           AttentionScratch& scratch) {
  const int64_t d = heads.head_dim, shared = heads.shared();
  Floats lanes[kLanes];
  for (int64_t at = 0; at < d; at += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t query = task.first + (lane < task.count ? lane : 0);
      const int64_t row = task.first_row + query / shared, head = task.kv_head * shared + query % shared;
      lanes[lane] = load(queries + (row * heads.num_heads + head) * d + at);
    }
    transpose(lanes);
    for (int pair = 0; pair < kLanes / 2; ++pair) {
      const Words low = round_to_bfloat16(lanes[2 * pair]), high = round_to_bfloat16(lanes[2 * pair + 1]);
      const Words low_rest = round_to_bfloat16(lanes[2 * pair] - reinterpret<Floats>(low));
      const Words high_rest = round_to_bfloat16(lanes[2 * pair + 1] - reinterpret<Floats>(high));
      store_words(scratch.queries[0][at / 2 + pair], low >> 16 | high);
      store_words(scratch.queries[1][at / 2 + pair], low_rest >> 16 | high_rest);
    }
  }
}

inline void scatter_outputs(const AttentionTask& task, const Heads& heads, AttentionScratch& scratch,
                            float* outputs) {
  const int64_t d = heads.head_dim, shared = heads.shared();
  const Floats inverse = 1.0f / scratch.total;
  Floats lanes[kLanes];
  for (int64_t at = 0; at < d; at += kLanes) {
    for (int part = 0; part < kLanes; ++part) lanes[part] = load(scratch.outputs[at + part]) * inverse;
    transpose(lanes);
    for (int64_t lane = 0; lane < task.count; ++lane) {
      const int64_t query = task.first + lane;
      const int64_t row = task.first_row + query / shared, head = task.kv_head * shared + query % shared;
      store(outputs + (row * heads.num_heads + head) * d + at, lanes[lane]);
    }
  }
}

// Scores of `num_blocks` blocks from `keys` on: [16 * blocks][16 queries].
inline void score(const uint16_t* const* keys, int num_blocks, int64_t d, bool has_amx, AttentionScratch& scratch,
                  float (*scores)[kLanes]) {
#ifdef SPARKGATE_AMX
  if (has_amx) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    int64_t at = 0;
    for (; at + 32 <= d; at += 32)
      for (int rest = 0; rest < 2; ++rest) {
        _tile_loadd(5, scratch.queries[rest][at / 2], kTileDepth);
        _tile_loadd(4, keys[0] + at, d * 2);
        _tile_dpbf16ps(0, 4, 5);
        if (num_blocks > 1) {
          _tile_loadd(4, keys[1] + at, d * 2);
          _tile_dpbf16ps(1, 4, 5);
        }
        if (num_blocks > 2) {
          _tile_loadd(4, keys[2] + at, d * 2);
          _tile_dpbf16ps(2, 4, 5);
        }
        if (num_blocks > 3) {
          _tile_loadd(4, keys[3] + at, d * 2);
          _tile_dpbf16ps(3, 4, 5);
        }
      }
    for (int rest = 0; rest < 2 && at < d; ++rest) {
      _tile_loadd(7, scratch.queries[rest][at / 2], kTileDepth);
      _tile_loadd(6, keys[0] + at, d * 2);
      _tile_dpbf16ps(0, 6, 7);
      if (num_blocks > 1) {
        _tile_loadd(6, keys[1] + at, d * 2);
        _tile_dpbf16ps(1, 6, 7);
      }
      if (num_blocks > 2) {
        _tile_loadd(6, keys[2] + at, d * 2);
        _tile_dpbf16ps(2, 6, 7);
      }
      if (num_blocks > 3) {
        _tile_loadd(6, keys[3] + at, d * 2);
        _tile_dpbf16ps(3, 6, 7);
      }
    }
    _tile_stored(0, scores[0], kTileDepth);
    _tile_stored(1, scores[16], kTileDepth);
    _tile_stored(2, scores[32], kTileDepth);
    _tile_stored(3, scores[48], kTileDepth);
    return;
  }
#endif
  for (int block = 0; block < num_blocks; ++block) {
    float* totals = scores[block * kBlockTokens];
    std::memset(totals, 0, kTile);
    for (int64_t at = 0; at < d; at += 32)
      for (int rest = 0; rest < 2; ++rest)
        add_products(keys[block] + at, d, scratch.queries[rest][at / 2], d - at < 32 ? 8 : 16, totals);
  }
}

// outputs [d][16 queries] += values x weights of `num_blocks` blocks
inline void add_values(const uint16_t* const* values, int num_blocks, int64_t d, bool has_amx,
                       AttentionScratch& scratch) {
#ifdef SPARKGATE_AMX
  if (has_amx) {
    for (int64_t at = 0; at < d; at += 64) {
      const int64_t parts = d - at < 64 ? (d - at) / 16 : 4;
      _tile_loadd(0, scratch.outputs[at], kTileDepth);
      if (parts > 1) _tile_loadd(1, scratch.outputs[at + 16], kTileDepth);
      if (parts > 2) _tile_loadd(2, scratch.outputs[at + 32], kTileDepth);
      if (parts > 3) _tile_loadd(3, scratch.outputs[at + 48], kTileDepth);
      for (int block = 0; block < num_blocks; ++block) {
        const uint16_t* from = values[block] + at * kBlockTokens;
        _tile_loadd(7, scratch.weights[block * 8], kTileDepth);
        _tile_loadd(6, from, kBlockTokens * 2);
        _tile_dpbf16ps(0, 6, 7);
        if (parts > 1) {
          _tile_loadd(6, from + 16 * kBlockTokens, kBlockTokens * 2);
          _tile_dpbf16ps(1, 6, 7);
        }
        if (parts > 2) {
          _tile_loadd(6, from + 32 * kBlockTokens, kBlockTokens * 2);
          _tile_dpbf16ps(2, 6, 7);
        }
        if (parts > 3) {
          _tile_loadd(6, from + 48 * kBlockTokens, kBlockTokens * 2);
          _tile_dpbf16ps(3, 6, 7);
        }
      }
      _tile_stored(0, scratch.outputs[at], kTileDepth);
      if (parts > 1) _tile_stored(1, scratch.outputs[at + 16], kTileDepth);
      if (parts > 2) _tile_stored(2, scratch.outputs[at + 32], kTileDepth);
      if (parts > 3) _tile_stored(3, scratch.outputs[at + 48], kTileDepth);
    }
    return;
  }
#endif
  for (int block = 0; block < num_blocks; ++block)
    for (int64_t at = 0; at < d; at += 16)
      add_products(values[block] + at * kBlockTokens, kBlockTokens, scratch.weights[block * 8], 8,
                   scratch.outputs[at]);
}

// Turns scores into weights 2^(score - peak), two keys to a word, and keeps peak, total and outputs in step.
// `visible` [16]: how many of these keys each query may see.
inline __attribute__((noinline)) void soften(float (*scores)[kLanes], int num_keys, Ints visible, bool all_visible,
                                             int64_t d, AttentionScratch& scratch) {
  Floats peak = scratch.peak;
  if (!all_visible)
    for (int key = 0; key < num_keys; ++key)
      store(scores[key], visible > key ? load(scores[key]) : spread(-INFINITY));
  for (int key = 0; key < num_keys; ++key) peak = larger(peak, load(scores[key]));
  Floats total = Floats{};
  for (int key = 0; key < num_keys; key += 2) {
    const Words even = weigh(load(scores[key]) - peak), odd = weigh(load(scores[key + 1]) - peak);
    total += reinterpret<Floats>(even) + reinterpret<Floats>(odd);
    store_words(scratch.weights[key / 2], even >> 16 | odd);
  }
  const Floats factor = power_of_two(scratch.peak - peak);
  scratch.peak = peak;
  scratch.total = scratch.total * factor + total;
  if (is_any(factor != 1.0f))
    for (int64_t at = 0; at < d; ++at) store(scratch.outputs[at], load(scratch.outputs[at]) * factor);
}

// queries and outputs [rows, heads, d], the queries already scaled to powers of two; `last_seen` [rows] rises
// within a sequence.
inline void attend(const AttentionTask& task, const Heads& heads, const int64_t* last_seen, const uint16_t* cache,
                   const float* queries, float* outputs, bool has_amx, AttentionScratch& scratch) {
  constexpr int kStrideKeys = kStrideBlocks * kBlockTokens;
  const int64_t d = heads.head_dim, shared = heads.shared();
  const int64_t least_seen = last_seen[task.first_row + task.first / shared];
  const int64_t most_seen = last_seen[task.first_row + (task.first + task.count - 1) / shared];
  Ints ends;
  for (int64_t lane = 0; lane < kLanes; ++lane)
    ends[lane] =
        static_cast<int>(last_seen[task.first_row + (task.first + (lane < task.count ? lane : 0)) / shared]) + 1;
  gather_queries(task, heads, queries, scratch);
  std::memset(scratch.outputs, 0, d * sizeof(scratch.outputs[0]));
  scratch.peak = spread(-1e30f), scratch.total = Floats{};
#ifdef SPARKGATE_AMX
  settle_memory();
#endif
  const int64_t num_blocks = most_seen / kBlockTokens + 1, size = kBlockTokens * d;
  const uint16_t *keys[2][kStrideBlocks], *values[2][kStrideBlocks];
  auto start = [&](int64_t first) {  // the scores of a stride, while those of the one before are softened
    const int count = num_blocks - first < kStrideBlocks ? num_blocks - first : kStrideBlocks;
    const int turn = first / kStrideBlocks % 2;
    for (int block = 0; block < count; ++block) {
      const uint16_t* from = task.table.block(heads, cache, first + block) + task.kv_head * size;
      keys[turn][block] = from, values[turn][block] = from + heads.num_kv_heads * size;
    }
    score(keys[turn], count, d, has_amx, scratch, scratch.scores[turn]);
  };
  start(0);
  for (int64_t first = 0; first < num_blocks; first += kStrideBlocks) {
    if (first + kStrideBlocks < num_blocks) start(first + kStrideBlocks);
    const int count = num_blocks - first < kStrideBlocks ? num_blocks - first : kStrideBlocks;
    const int turn = first / kStrideBlocks % 2;
    const int64_t first_key = first * kBlockTokens;
    soften(scratch.scores[turn], count * kBlockTokens, ends - static_cast<int>(first_key),
           least_seen >= first_key + kStrideKeys - 1, d, scratch);
#ifdef SPARKGATE_AMX
    settle_memory();
#endif
    add_values(values[turn], count, d, has_amx, scratch);
  }
#ifdef SPARKGATE_AMX
  settle_memory();
#endif
  scatter_outputs(task, heads, scratch, outputs);
}
