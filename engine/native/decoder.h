// The decoder layers that the target and a block drafter share: int8 weights and 16-bit rows (W8A16).
//
// Rows are quantised each by its own maximum, norms, rotation, softmax and the residual stream are float32, keys
// and values bfloat16. No row's arithmetic depends on another row.
#pragma once
#include <memory>

#include "attention.h"
#include "product.h"

struct Layer {
  std::vector<float> attention_norm, mlp_norm, query_norm, key_norm;  // the last two empty without head norms
  Weight qkv, attention_out, gate_up, mlp_out;
};

// Rows that go through the layers together.
struct Rows {
  int64_t count;
  const int64_t *positions, *slots;  // [count] where they stand, and where their keys and values go
  const int64_t* last_seen;          // [count] position of the last key that each row sees
};

// What a decoder is made of, but for its weights.
struct Parts {
  int64_t hidden, inner, num_heads, num_kv_heads, head_dim, num_layers;
  double epsilon;
  const uint16_t* embedding;   // [tokens, hidden] bfloat16
  const float *cosine, *sine;  // [positions, d]
  const float* final_norm;     // [hidden]
};

// Where there is an `omp for` inside, all threads of a team call a member together.
struct Decoder {
  int64_t hidden, inner;
  Heads heads;
  float epsilon;
  const float *cosine, *sine;  // [positions, d]
  const uint16_t* embedding;   // [tokens, hidden] bfloat16
  std::vector<float> final_norm;
  std::vector<std::unique_ptr<Layer>> layers;
  Weight head;
  bool has_amx;

  // Of one step, kept for the next.
  std::vector<float> stream, fused, queries, attended, gated, normed, scales;
  std::vector<int8_t> bytes;
  std::vector<AttentionTask> tasks;

  explicit Decoder(const Parts& parts);
  void set_weight(int64_t layer, int which, const float* source, int64_t columns, int64_t depth);

 protected:
  void grow_buffers(int64_t num_rows, int64_t deepest);
  void list_tasks(int64_t first_row, int64_t width, const BlockTable& table);
  void embed(const int64_t* token_ids, int64_t num_rows);
  void norm_row(const float* row, const std::vector<float>& weight, float* to) const;
  void norm_and_quantise(int64_t num_rows, const std::vector<float>& weight);
  void put_product(const Weight& weight, int64_t num_rows, float* to, int64_t first_pair = 0);
  void store_key_value(const Layer& layer, float* head, int64_t position, int64_t slot, uint16_t* cache) const;
  void run_layer(const Layer& layer, const Rows& rows, const uint16_t* cache, uint16_t* store_in);

 private:
  void quantise_rows(const float* rows, int64_t num_rows, int64_t depth, int64_t stride);
  void rotate_row(const Layer& layer, const Rows& rows, int64_t row, uint16_t* cache);
  void rotate_head(float* head, const std::vector<float>& norm, int64_t position) const;
  void attend_rows(const Rows& rows, const uint16_t* cache);
  void add_product(const Weight& weight, int64_t num_rows);
};

template <class Kind>
void grow(std::vector<Kind>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
}

inline Decoder::Decoder(const Parts& parts)
    : hidden(parts.hidden), inner(parts.inner), heads{parts.num_heads, parts.num_kv_heads, parts.head_dim},
      epsilon(static_cast<float>(parts.epsilon)), cosine(parts.cosine), sine(parts.sine), embedding(parts.embedding),
      final_norm(parts.final_norm, parts.final_norm + parts.hidden), has_amx(ask_for_amx()) {
  for (int64_t index = 0; index < parts.num_layers; ++index) layers.push_back(std::make_unique<Layer>());
}

// `which`: 0 qkv, 1 attention out, 2 gate and up, 3 mlp out, 4 the head (layer ignored); source [columns, depth].
inline void Decoder::set_weight(int64_t layer, int which, const float* source, int64_t columns, int64_t depth) {
  if (which == 4) return head.set(source, columns, depth, nullptr);
  Layer& to = *layers[layer];
  if (which != 2) {
    Weight& weight = which == 0 ? to.qkv : which == 1 ? to.attention_out : to.mlp_out;
    return weight.set(source, columns, depth, nullptr);
  }
  // Sixteen columns of the gate beside the sixteen of `up` that they are multiplied with.
  std::vector<int64_t> order(columns);
  for (int64_t at = 0; at < columns / 2; ++at) {
    order[at] = at / 16 * 32 + at % 16;
    order[columns / 2 + at] = order[at] + 16;
  }
  to.gate_up.set(source, columns, depth, order.data());
}

// For rows of up to `deepest` values where the layers do not have deeper ones.
inline void Decoder::grow_buffers(int64_t num_rows, int64_t deepest) {
  const int64_t all_heads = heads.num_heads * heads.head_dim;
  for (int64_t depth : {hidden, inner, all_heads}) deepest = depth > deepest ? depth : deepest;
  grow(stream, num_rows * hidden);
  grow(fused, num_rows * (all_heads + 2 * heads.num_kv_heads * heads.head_dim));
  grow(queries, num_rows * all_heads);
  grow(attended, num_rows * all_heads);
  grow(gated, num_rows * inner);
  grow(normed, num_rows * hidden);
  grow(scales, num_rows);
  grow(bytes, bytes_for(num_rows, round_up(deepest, kTileDepth)));
}

// Those of a sequence, the longest first, so that no thread is left alone with one at the end.
inline void Decoder::list_tasks(int64_t first_row, int64_t width, const BlockTable& table) {
  for (int64_t end = width * heads.shared(); end > 0; end -= kLanes)
    for (int64_t kv_head = 0; kv_head < heads.num_kv_heads; ++kv_head) {
      const int64_t first = end > kLanes ? end - kLanes : 0;
      tasks.push_back({first_row, first, end - first, kv_head, table});
    }
}

inline void Decoder::embed(const int64_t* token_ids, int64_t num_rows) {
#pragma omp for
  for (int64_t row = 0; row < num_rows; ++row)
    for (int64_t at = 0; at < hidden; at += kLanes)
      store(&stream[row * hidden + at], load_bfloat16(embedding + token_ids[row] * hidden + at));
}

inline void Decoder::norm_row(const float* row, const std::vector<float>& weight, float* to) const {
  Floats squares = Floats{};
  for (int64_t at = 0; at < hidden; at += kLanes) squares += load(row + at) * load(row + at);
  const float factor = 1.0f / std::sqrt(sum(squares) / hidden + epsilon);
  for (int64_t at = 0; at < hidden; at += kLanes) store(to + at, load(row + at) * factor * load(&weight[at]));
}

// The stream, normed, as bytes with a scale a row.
inline void Decoder::norm_and_quantise(int64_t num_rows, const std::vector<float>& weight) {
#pragma omp for
  for (int64_t row = 0; row < num_rows; ++row) {
    norm_row(&stream[row * hidden], weight, &normed[row * hidden]);
    scales[row] = quantise(&normed[row * hidden], hidden, row, round_up(hidden, kTileDepth), bytes.data());
  }
}

inline void Decoder::quantise_rows(const float* rows, int64_t num_rows, int64_t depth, int64_t stride) {
#pragma omp for
  for (int64_t row = 0; row < num_rows; ++row)
    scales[row] = quantise(rows + row * depth, depth, row, stride, bytes.data());
}

// Norms a head where the model does, then turns it to its position.
inline void Decoder::rotate_head(float* head, const std::vector<float>& norm, int64_t position) const {
  const int64_t d = heads.head_dim, half = d / 2;
  if (!norm.empty()) {
    Floats squares = Floats{};
    for (int64_t at = 0; at < d; at += kLanes) squares += load(head + at) * load(head + at);
    const float factor = 1.0f / std::sqrt(sum(squares) / d + epsilon);
    for (int64_t at = 0; at < d; at += kLanes) store(head + at, load(head + at) * factor * load(&norm[at]));
  }
  const float *cos = cosine + position * d, *sin = sine + position * d;
  for (int64_t at = 0; at < half; ++at) {
    const float low = head[at], high = head[at + half];
    head[at] = low * cos[at] + high * sin[at];
    head[at + half] = high * cos[at + half] + low * sin[at + half];
  }
}

// The keys at `head`, which are turned there, and the values after them go to the cache.
inline void Decoder::store_key_value(const Layer& layer, float* head, int64_t position, int64_t slot,
                                     uint16_t* cache) const {
  const int64_t d = heads.head_dim, kv_heads = heads.num_kv_heads;
  for (int64_t index = 0; index < kv_heads; ++index, head += d) {
    rotate_head(head, layer.key_norm, position);
    const float* value = head + kv_heads * d;
    const Place place = place_of(heads, cache, slot, index);
    for (int64_t at = 0; at < d; at += kLanes) {
      uint16_t rounded[kLanes];
      store_bfloat16(place.keys + at, load(head + at));
      store_bfloat16(rounded, load(value + at));
      for (int64_t lane = 0; lane < kLanes; ++lane) place.values[(at + lane) * kBlockTokens] = rounded[lane];
    }
  }
}

// Queries, scaled, to their buffer; keys and values to the cache.
inline void Decoder::rotate_row(const Layer& layer, const Rows& rows, int64_t row, uint16_t* cache) {
  const int64_t d = heads.head_dim;
  float* head = &fused[row * layer.qkv.columns];
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(d));  // softmax works in powers of two
  for (int64_t index = 0; index < heads.num_heads; ++index, head += d) {
    rotate_head(head, layer.query_norm, rows.positions[row]);
    float* query = &queries[(row * heads.num_heads + index) * d];
    for (int64_t at = 0; at < d; at += kLanes) store(query + at, load(head + at) * scale);
  }
  store_key_value(layer, head, rows.positions[row], rows.slots[row], cache);
}

// to [rows, columns] = bytes x weight, but for the pairs of columns before `first_pair`
inline void Decoder::put_product(const Weight& weight, int64_t num_rows, float* to, int64_t first_pair) {
  auto put = [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* here = to + row * weight.columns + pair * 32;
    store(here, left * scales[row]);
    if (pair * 32 + 16 < weight.columns) store(here + 16, right * scales[row]);
  };
  multiply(weight, bytes.data(), num_rows, has_amx, put, first_pair);
}

// stream += bytes x weight
inline void Decoder::add_product(const Weight& weight, int64_t num_rows) {
  multiply(weight, bytes.data(), num_rows, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* to = &stream[row * hidden + pair * 32];
    store(to, load(to) + left * scales[row]);
    if (pair * 32 + 16 < hidden) store(to + 16, load(to + 16) + right * scales[row]);
  });
}

// Keys and values of the rows are put into `store_in`; they are looked for where the tasks' tables say.
inline void Decoder::run_layer(const Layer& layer, const Rows& rows, const uint16_t* cache, uint16_t* store_in) {
  const int64_t count = rows.count, all_heads = heads.num_heads * heads.head_dim;
  norm_and_quantise(count, layer.attention_norm);
  put_product(layer.qkv, count, fused.data());
#pragma omp for
  for (int64_t row = 0; row < count; ++row) rotate_row(layer, rows, row, store_in);
  attend_rows(rows, cache);
  quantise_rows(attended.data(), count, all_heads, layer.attention_out.padded_depth());
  add_product(layer.attention_out, count);
  norm_and_quantise(count, layer.mlp_norm);
  multiply(layer.gate_up, bytes.data(), count, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    const Floats gate = left * scales[row], up = right * scales[row];
    store(&gated[row * inner + pair * 16], gate / (1.0f + exponential(-gate)) * up);
  });
  quantise_rows(gated.data(), count, inner, layer.mlp_out.padded_depth());
  add_product(layer.mlp_out, count);
}

inline void Decoder::attend_rows(const Rows& rows, const uint16_t* cache) {
  static thread_local AttentionScratch scratch;
#ifdef SPARKGATE_AMX
  if (has_amx) shape_tiles(true);
#endif
#pragma omp for schedule(dynamic)
  for (size_t at = 0; at < tasks.size(); ++at)
    attend(tasks[at], heads, rows.last_seen, cache, queries.data(), attended.data(), has_amx, scratch);
#ifdef SPARKGATE_AMX
  if (has_amx) shape_tiles(false);
#endif
}
