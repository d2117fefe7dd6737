// The forward of a Llama or Qwen3 model with int8 weights and 16-bit rows (W8A16), whole steps at a time.
//
// The C functions at the end are all that Python sees (`engine/native/library.py`). Rows are quantised each
// by its own maximum, norms, rotation, softmax and the residual stream are float32, keys and values bfloat16.
// No row's arithmetic depends on another row, so answers are the same in any batch and with any chunking.
#include <atomic>
#include <memory>

#include "attention.h"
#include "product.h"

namespace {

constexpr int kExactLogits = 32;  // leading candidates whose logits are computed again in float32

struct Layer {
  std::vector<float> attention_norm, mlp_norm, query_norm, key_norm;  // the last two empty without head norms
  Weight qkv, attention_out, gate_up, mlp_out;
};

struct Step {
  int64_t num_rows, num_sequences, num_logits, num_captured;
  const int64_t *token_ids, *positions, *slots;                 // [rows]
  const int64_t *first_rows, *widths;                           // [sequences]
  const int64_t* const* block_ids;                              // [sequences] each [blocks]
  const int64_t* logit_rows;                                    // [num_logits]
  const int64_t* captured;                                      // [num_captured] layers
  uint16_t* const* cache;                                       // [layers] each [slots, 2 * kv heads, d]
  float *logits, *features;                                     // [num_logits, V], [rows, num_captured, D]
};

struct Model {
  int64_t hidden, inner, vocabulary;
  Heads heads;
  float epsilon;
  const float *cosine, *sine;               // [positions, d]
  const uint16_t *embedding, *head_rows;    // [V, D] bfloat16
  std::vector<float> final_norm;
  std::vector<std::unique_ptr<Layer>> layers;
  Weight head;
  bool has_amx;

  // Of one step, kept for the next.
  std::vector<float> stream, fused, queries, attended, gated, normed, scales, peaks;
  std::vector<int8_t> bytes;
  std::vector<AttentionTask> tasks;

  void run(const Step& step);

 private:
  void reserve(const Step& step);
  void list_tasks(const Step& step);
  void norm_row(const float* row, const std::vector<float>& weight, float* to) const;
  void norm_and_quantise(int64_t num_rows, const std::vector<float>& weight);
  void quantise_rows(const float* rows, int64_t num_rows, int64_t depth, int64_t stride);
  void rotate_row(const Layer& layer, const Step& step, int64_t row, uint16_t* cache);
  void rotate_head(float* head, const std::vector<float>& norm, int64_t position) const;
  void run_layer(const Layer& layer, const Step& step, int64_t index, std::atomic<int64_t>& next);
  void add_product(const Weight& weight, int64_t num_rows);
  void compute_logits(const Step& step);
  void sharpen(const float* row, const float* peaks_of_row, float* logits) const;
};

struct Share {
  int64_t first, last;
};

Share share_of(int64_t count) {
  const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
  return {count * thread / threads, count * (thread + 1) / threads};
}

template <class Kind>
void grow(std::vector<Kind>& buffer, int64_t size) {
  if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(size);
}

void Model::reserve(const Step& step) {
  const int64_t rows = step.num_rows, logits = step.num_logits;
  const int64_t most = rows > logits ? rows : logits, all_heads = heads.num_heads * heads.head_dim;
  int64_t widest = inner > hidden ? inner : hidden;
  widest = widest > all_heads ? widest : all_heads;
  grow(stream, rows * hidden);
  grow(fused, rows * (all_heads + 2 * heads.num_kv_heads * heads.head_dim));
  grow(queries, rows * all_heads);
  grow(attended, rows * all_heads);
  grow(gated, rows * inner);
  grow(normed, most * hidden);
  grow(scales, most);
  grow(peaks, logits * head.num_pairs);
  grow(bytes, bytes_for(most, round_up(widest, kTileDepth)));
}

// Few rows are cut into single heads so that every thread has work.
void Model::list_tasks(const Step& step) {
  tasks.clear();
  const bool is_small = step.num_rows * heads.num_kv_heads < 4 * omp_get_max_threads();
  const int64_t at_once = is_small ? 1 : heads.shared();
  for (int64_t index = 0; index < step.num_sequences; ++index)
    for (int64_t row = 0; row < step.widths[index]; row += kTileQueries)
      for (int64_t head = 0; head < heads.num_heads; head += at_once) {
        const int64_t left = step.widths[index] - row;
        tasks.push_back({step.first_rows[index] + row, left < kTileQueries ? left : kTileQueries, head, at_once,
                         step.block_ids[index]});
      }
}

void Model::norm_row(const float* row, const std::vector<float>& weight, float* to) const {
  Floats squares = Floats{};
  for (int64_t at = 0; at < hidden; at += kLanes) squares += load(row + at) * load(row + at);
  const float factor = 1.0f / std::sqrt(sum(squares) / hidden + epsilon);
  for (int64_t at = 0; at < hidden; at += kLanes) store(to + at, load(row + at) * factor * load(&weight[at]));
}

// The stream, normed, as bytes with a scale a row.
void Model::norm_and_quantise(int64_t num_rows, const std::vector<float>& weight) {
  const Share share = share_of(num_rows);
  for (int64_t row = share.first; row < share.last; ++row) {
    norm_row(&stream[row * hidden], weight, &normed[row * hidden]);
    scales[row] = quantise(&normed[row * hidden], hidden, row, round_up(hidden, kTileDepth), bytes.data());
  }
}

void Model::quantise_rows(const float* rows, int64_t num_rows, int64_t depth, int64_t stride) {
  const Share share = share_of(num_rows);
  for (int64_t row = share.first; row < share.last; ++row)
    scales[row] = quantise(rows + row * depth, depth, row, stride, bytes.data());
}

// Norms a head where the model does, then turns it to its position.
void Model::rotate_head(float* head, const std::vector<float>& norm, int64_t position) const {
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

// Queries, scaled, to their buffer; keys and values to the cache.
void Model::rotate_row(const Layer& layer, const Step& step, int64_t row, uint16_t* cache) {
  const int64_t d = heads.head_dim, kv_heads = heads.num_kv_heads, all_heads = heads.num_heads + 2 * kv_heads;
  float* head = &fused[row * all_heads * d];
  const float scale = 1.0f / std::sqrt(static_cast<float>(d));
  for (int64_t index = 0; index < heads.num_heads; ++index, head += d) {
    rotate_head(head, layer.query_norm, step.positions[row]);
    float* query = &queries[(row * heads.num_heads + index) * d];
    for (int64_t at = 0; at < d; at += kLanes) store(query + at, load(head + at) * scale);
  }
  uint16_t* slot = cache + step.slots[row] * 2 * kv_heads * d;
  for (int64_t index = 0; index < 2 * kv_heads; ++index, head += d, slot += d) {
    if (index < kv_heads) rotate_head(head, layer.key_norm, step.positions[row]);
    for (int64_t at = 0; at < d; at += kLanes) store_bfloat16(slot + at, load(head + at));
  }
}

// stream += bytes x weight
void Model::add_product(const Weight& weight, int64_t num_rows) {
  multiply(weight, bytes.data(), num_rows, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* to = &stream[row * hidden + pair * 32];
    store(to, load(to) + left * scales[row]);
    if (pair * 32 + 16 < hidden) store(to + 16, load(to + 16) + right * scales[row]);
  });
}

void Model::run_layer(const Layer& layer, const Step& step, int64_t index, std::atomic<int64_t>& next) {
  const int64_t rows = step.num_rows, all_heads = heads.num_heads * heads.head_dim;
  norm_and_quantise(rows, layer.attention_norm);
#pragma omp barrier
  multiply(layer.qkv, bytes.data(), rows, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float* to = &fused[row * layer.qkv.columns + pair * 32];
    store(to, left * scales[row]);
    if (pair * 32 + 16 < layer.qkv.columns) store(to + 16, right * scales[row]);
  });
#pragma omp barrier
  const Share share = share_of(rows);
  for (int64_t row = share.first; row < share.last; ++row) rotate_row(layer, step, row, step.cache[index]);
#pragma omp barrier
  thread_local std::vector<float> scores;
  const int64_t num_tasks = tasks.size();
  for (int64_t at = next++; at < num_tasks; at = next++)
    attend(tasks[at], heads, step.positions, step.cache[index], queries.data(), attended.data(), scores);
#pragma omp barrier
  quantise_rows(attended.data(), rows, all_heads, layer.attention_out.padded_depth());
#pragma omp barrier
  add_product(layer.attention_out, rows);
#pragma omp barrier
  norm_and_quantise(rows, layer.mlp_norm);
#pragma omp barrier
  multiply(layer.gate_up, bytes.data(), rows, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    const Floats gate = left * scales[row], up = right * scales[row];
    store(&gated[row * inner + pair * 16], gate / (1.0f + exponential(-gate)) * up);
  });
#pragma omp barrier
  quantise_rows(gated.data(), rows, inner, layer.mlp_out.padded_depth());
#pragma omp barrier
  add_product(layer.mlp_out, rows);
#pragma omp barrier
}

// Computes the leading logits of one row again from the weights as they were given.
void Model::sharpen(const float* row, const float* peaks_of_row, float* logits) const {
  int64_t leading[kExactLogits];
  int count = 0;
  float least = -INFINITY;
  for (int64_t pair = 0; pair < head.num_pairs; ++pair) {
    if (count == kExactLogits && !(peaks_of_row[pair] > least)) continue;
    for (int64_t column = pair * 32; column < pair * 32 + 32 && column < vocabulary; ++column) {
      if (count == kExactLogits && !(logits[column] > least)) continue;
      int at = count < kExactLogits ? count++ : kExactLogits - 1;
      for (; at > 0 && logits[leading[at - 1]] < logits[column]; --at) leading[at] = leading[at - 1];
      leading[at] = column;
      least = logits[leading[count - 1]];
    }
  }
  for (int at = 0; at < count; ++at) {
    const uint16_t* weight = head_rows + leading[at] * hidden;
    Floats total = Floats{};
    for (int64_t part = 0; part < hidden; part += kLanes) total += load(row + part) * load_bfloat16(weight + part);
    logits[leading[at]] = sum(total);
  }
}

void Model::compute_logits(const Step& step) {
  const Share share = share_of(step.num_logits);
  for (int64_t at = share.first; at < share.last; ++at) {
    norm_row(&stream[step.logit_rows[at] * hidden], final_norm, &normed[at * hidden]);
    scales[at] = quantise(&normed[at * hidden], hidden, at, head.padded_depth(), bytes.data());
  }
#pragma omp barrier
  multiply(head, bytes.data(), step.num_logits, has_amx, [&](int64_t row, int64_t pair, Floats left, Floats right) {
    float values[32];
    store(values, left * scales[row]);
    store(values + 16, right * scales[row]);
    const int64_t rest = vocabulary - pair * 32, count = rest < 32 ? rest : 32;
    std::memcpy(step.logits + row * vocabulary + pair * 32, values, count * sizeof(float));
    for (int64_t at = count; at < 32; ++at) values[at] = values[0];
    peaks[row * head.num_pairs + pair] = largest(larger(load(values), load(values + 16)));
  });
#pragma omp barrier
  for (int64_t at = share.first; at < share.last; ++at)
    sharpen(&normed[at * hidden], &peaks[at * head.num_pairs], step.logits + at * vocabulary);
}

void Model::run(const Step& step) {
  reserve(step);
  list_tasks(step);
  std::vector<std::atomic<int64_t>> next(layers.size());
#pragma omp parallel
  {
#ifdef __AMX_INT8__
    if (has_amx) start_tiles();
#endif
    const Share share = share_of(step.num_rows);
    for (int64_t row = share.first; row < share.last; ++row)
      for (int64_t at = 0; at < hidden; at += kLanes)
        store(&stream[row * hidden + at], load_bfloat16(embedding + step.token_ids[row] * hidden + at));
#pragma omp barrier
    int64_t num_captured = 0;
    for (size_t index = 0; index < layers.size(); ++index) {
      run_layer(*layers[index], step, index, next[index]);
      if (num_captured < step.num_captured && step.captured[num_captured] == static_cast<int64_t>(index)) {
        for (int64_t row = share.first; row < share.last; ++row)
          std::memcpy(step.features + (row * step.num_captured + num_captured) * hidden, &stream[row * hidden],
                      hidden * sizeof(float));
        ++num_captured;
      }
    }
    if (step.num_logits > 0) compute_logits(step);
#ifdef __AMX_INT8__
    if (has_amx) _tile_release();
#endif
  }
}

}  // namespace

extern "C" {

Model* sparkgate_new(int64_t hidden, int64_t inner, int64_t vocabulary, int64_t num_heads, int64_t num_kv_heads,
                     int64_t head_dim, int64_t num_layers, double epsilon, const uint16_t* embedding,
                     const uint16_t* head_rows, const float* cosine, const float* sine, const float* final_norm) {
  auto model = std::make_unique<Model>();
  model->hidden = hidden, model->inner = inner, model->vocabulary = vocabulary;
  model->heads = {num_heads, num_kv_heads, head_dim};
  model->epsilon = static_cast<float>(epsilon);
  model->embedding = embedding, model->head_rows = head_rows, model->cosine = cosine, model->sine = sine;
  model->final_norm.assign(final_norm, final_norm + hidden);
  for (int64_t index = 0; index < num_layers; ++index) model->layers.push_back(std::make_unique<Layer>());
  model->has_amx = ask_for_amx();
  return model.release();
}

void sparkgate_free(Model* model) { delete model; }

int sparkgate_has_amx(const Model* model) { return model->has_amx; }

void sparkgate_use_amx(Model* model, int wanted) { model->has_amx = wanted && ask_for_amx(); }

// `which`: 0 qkv, 1 attention out, 2 gate and up, 3 mlp out, 4 the head (layer ignored); source [columns, depth].
void sparkgate_set_weight(Model* model, int64_t layer, int which, const float* source, int64_t columns,
                          int64_t depth) {
  if (which == 4) return model->head.set(source, columns, depth, nullptr);
  Layer& to = *model->layers[layer];
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

// `which`: 0 before attention, 1 before the mlp, 2 queries, 3 keys.
void sparkgate_set_norm(Model* model, int64_t layer, int which, const float* source, int64_t size) {
  Layer& to = *model->layers[layer];
  std::vector<float>* norms[] = {&to.attention_norm, &to.mlp_norm, &to.query_norm, &to.key_norm};
  norms[which]->assign(source, source + size);
}

void sparkgate_forward(Model* model, const Step* step) { model->run(*step); }

}
